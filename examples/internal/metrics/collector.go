// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/go-blockmirror/blockmirror/examples/internal/node"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
)

// Handler returns what answers /metrics.
func Handler(n *node.Node) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(New(n), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
}

// collector implements prometheus.Collector.
type collector struct{ n *node.Node }

// New returns a collector of the node's metrics.
func New(n *node.Node) prometheus.Collector { return &collector{n} }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// The metrics' names and labels. Those that begin with drbd_ are drbd-reactor's.
var (
	resources = desc("drbd_resource_resources", "Number of resources")
	role      = desc("drbd_resource_role", "Role of the resource", "name", "drbd_resource_role")
	suspended = desc("drbd_resource_suspended", "Whether I/O of the resource is suspended", "name")
	ordering  = desc("drbd_resource_writeordering", "How write order is kept on the disk", "name", "drbd_resource_writeordering")

	device        = []string{"name", "volume", "minor"}
	deviceState   = desc("drbd_device_state", "State of the disk", append(device, "drbd_device_state")...)
	deviceQuorum  = desc("drbd_device_quorum", "Whether the device has quorum; without quorum always 1", device...)
	deviceClient  = desc("drbd_device_client", "Whether the device is diskless on purpose", device...)
	deviceLost    = desc("drbd_device_unintentionaldiskless", "Whether the device lost its disk", device...)
	deviceSize    = desc("drbd_device_size_bytes", "Size of the device", device...)
	deviceRead    = desc("drbd_device_read_bytes_total", "Read from the local disk", device...)
	deviceWritten = desc("drbd_device_written_bytes_total", "Written to the local disk", device...)
	deviceAL      = desc("drbd_device_alwrites_total", "Writes of the activity log", device...)
	deviceBM      = desc("drbd_device_bmwrites_total", "Writes of the bitmap", device...)
	deviceUpper   = desc("drbd_device_upperpending", "Requests of the application that are not completed", device...)
	deviceLower   = desc("drbd_device_lowerpending", "Requests to the local disk that are not completed", device...)
	deviceALSusp  = desc("drbd_device_alsuspended", "Whether the activity log is suspended", device...)

	conn          = []string{"name", "conn_name", "peer_node_id"}
	connState     = desc("drbd_connection_state", "State of the connection", append(conn, "drbd_connection_state")...)
	connCongested = desc("drbd_connection_congested", "Whether the connection is congested", conn...)
	connAP        = desc("drbd_connection_apinflight_bytes", "Writes of the application on the way to the peer", conn...)
	connRS        = desc("drbd_connection_rsinflight_bytes", "Resync data on the way", conn...)

	peer         = []string{"name", "conn_name", "peer_node_id", "volume"}
	peerOOS      = desc("drbd_peerdevice_outofsync_bytes", "What differs, or may differ, from the peer's copy", peer...)
	peerReceived = desc("drbd_peerdevice_received_bytes_total", "Data received from the peer, since it connected", peer...)
	peerSent     = desc("drbd_peerdevice_sent_bytes_total", "Data sent to the peer, since it connected", peer...)
	peerPending  = desc("drbd_peerdevice_pending", "Requests to the peer that are not answered", peer...)
	peerUnacked  = desc("drbd_peerdevice_unacked", "Requests of the peer that are not answered", peer...)

	volume     = []string{"name", "volume"}
	latency    = desc("blockmirror_request_duration_seconds", "Time that requests of clients took; failed ones are not counted", append(volume, "kind")...)
	reqBytes   = desc("blockmirror_request_bytes_total", "Data of the clients' requests", append(volume, "kind")...)
	clients    = desc("blockmirror_clients", "NBD clients that use the device", volume...)
	peerDisk   = desc("blockmirror_peer_disk_state", "State of the peer's disk", append(volume, "state")...)
	replState  = desc("blockmirror_replication_state", "State of the replication", append(volume, "state")...)
	rsTotal    = desc("blockmirror_resync_total_bytes", "What the resync that runs has to look at", volume...)
	rsLeft     = desc("blockmirror_resync_left_bytes", "What is left of it", volume...)
	rsFailed   = desc("blockmirror_resync_failed_bytes", "What of it could not be copied", volume...)
	rsRate     = desc("blockmirror_resync_rate_bytes_per_second", "Its speed over about the last 18 seconds", volume...)
	rsSeconds  = desc("blockmirror_resync_left_seconds", "Estimated time to its end", volume...)
	splitBrain = desc("blockmirror_split_brain", "Whether the connection ended because of a split brain", "name")
	failed     = desc("blockmirror_resource_failed", "Whether the resource stopped itself because of an internal error", "name")
)

// Describe implements prometheus.Collector: the collector is unchecked, because labels
// carry states.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// out collects metrics.
type out chan<- prometheus.Metric

func (o out) gauge(d *prometheus.Desc, v float64, labels ...string) {
	o <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (o out) counter(d *prometheus.Desc, v float64, labels ...string) {
	o <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

// states writes one metric for each value a state can have: 1 for the one it has.
func (o out) states(d *prometheus.Desc, now string, all []string, labels ...string) {
	for _, s := range all {
		o.gauge(d, bit(s == now), append(labels[:len(labels):len(labels)], s)...)
	}
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	o := out(ch)
	list := c.n.Resources()
	o.gauge(resources, float64(len(list)))
	for _, r := range list {
		o.resource(r)
	}
}

func (o out) resource(r *node.Resource) {
	name, snap, st := r.Name(), r.Snapshot(), r.Status()
	o.states(role, st.Role, []string{"Unknown", "Primary", "Secondary"}, name)
	o.gauge(suspended, bit(st.Suspended), name)
	o.gauge(ordering, 1, name, st.WriteOrdering)
	o.gauge(splitBrain, bit(r.Trouble() == node.SplitBrain), name)
	o.gauge(failed, bit(snap.Failed != nil), name)
	for i := range st.Devices {
		d := &st.Devices[i]
		o.device(name, d)
		if v, ok := snap.Volume(uint16(d.Volume)); ok {
			o.replication(name, &v)
		}
	}
	for i := range st.Connections {
		o.connection(name, &st.Connections[i])
	}
	for _, v := range r.Volumes() {
		o.client(name, v)
	}
}

const kib = 1024

func (o out) device(name string, d *node.DeviceStat) {
	l := []string{name, strconv.Itoa(d.Volume), strconv.Itoa(d.Minor)}
	o.states(deviceState, d.DiskState, diskStates(), l...)
	o.gauge(deviceQuorum, bit(d.Quorum), l...)
	o.gauge(deviceClient, bit(d.Client), l...)
	o.gauge(deviceLost, bit(d.DiskState == "Diskless" && !d.Client), l...)
	o.gauge(deviceSize, float64(d.Size)*kib, l...)
	o.counter(deviceRead, float64(d.Read)*kib, l...)
	o.counter(deviceWritten, float64(d.Written)*kib, l...)
	o.counter(deviceAL, float64(d.ALWrites), l...)
	o.counter(deviceBM, float64(d.BMWrites), l...)
	o.gauge(deviceUpper, float64(d.UpperPending), l...)
	o.gauge(deviceLower, float64(d.LowerPending), l...)
	o.gauge(deviceALSusp, bit(d.ALSuspended), l...)
}

func (o out) connection(name string, c *node.ConnStat) {
	l := []string{name, c.Name, strconv.Itoa(c.PeerNodeID)}
	o.states(connState, c.ConnectionState, connStates(), l...)
	o.gauge(connCongested, bit(c.Congested), l...)
	o.gauge(connAP, float64(c.APInFlight)*kib, l...)
	o.gauge(connRS, float64(c.RSInFlight)*kib, l...)
	for i := range c.PeerDevices {
		p := &c.PeerDevices[i]
		l := append(l[:3:3], strconv.Itoa(p.Volume))
		o.gauge(peerOOS, float64(p.OutOfSync)*kib, l...)
		o.counter(peerReceived, float64(p.Received)*kib, l...)
		o.counter(peerSent, float64(p.Sent)*kib, l...)
		o.gauge(peerPending, float64(p.Pending), l...)
		o.gauge(peerUnacked, float64(p.Unacked), l...)
	}
}

func (o out) replication(name string, v *replica.VolumeStatus) {
	l := []string{name, strconv.Itoa(int(v.ID))}
	o.gauge(peerDisk, 1, append(l, v.State.PeerDisk.String())...)
	o.gauge(replState, 1, append(l, v.State.Conn.String())...)
	if rs := v.Resync; rs != nil {
		o.gauge(rsTotal, float64(rs.Total), l...)
		o.gauge(rsLeft, float64(rs.Left), l...)
		o.gauge(rsFailed, float64(rs.Failed), l...)
		o.gauge(rsRate, float64(rs.Rate), l...)
		o.gauge(rsSeconds, rs.Finish.Seconds(), l...)
	}
}

// client writes what the clients of a device saw.
func (o out) client(name string, v *node.Volume) {
	l := []string{name, strconv.Itoa(int(v.ID()))}
	o.gauge(clients, float64(v.Device().Opens()), l...)
	for k := range node.Kinds {
		lat := v.Device().Latency(node.Kind(k)).Load()
		cumulative, total := map[float64]uint64{}, uint64(0)
		for i, bound := range node.LatencyBounds() {
			total += lat.Counts[i]
			cumulative[bound.Seconds()] = total
		}
		labels := append(l[:2:2], node.Kind(k).String())
		o <- prometheus.MustNewConstHistogram(latency, lat.Total(), lat.Sum.Seconds(), cumulative, labels...)
		o.counter(reqBytes, float64(lat.Bytes), labels...)
	}
}

func diskStates() (out []string) {
	for d := protocol.Diskless; d <= protocol.UpToDate; d++ {
		out = append(out, d.String())
	}
	return out
}

func connStates() []string {
	return []string{"StandAlone", "Disconnecting", "Unconnected", "Timeout", "BrokenPipe", "NetworkFailure",
		"ProtocolError", "TearDown", "Connecting", "Connected"}
}
