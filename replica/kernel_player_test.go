// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package replica_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-blockmirror/blockmirror/internal/kerneldrbd"
	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// kernelPlayer is the standIn that is a guest with the kernel's DRBD. Its disk is the
// guest's first; the data that it shall write comes over the disk labPattern.
type kernelPlayer struct {
	ctx    context.Context
	lab    *kernelLab
	name   string
	kernel *kerneldrbd.Resource
	port   int // where the kernel dials
	usable int64

	// Options of attach, connect and the resource, and exit codes of handlers.
	disk, net, resource, handlers map[string]string

	began, marked kerneldrbd.Mark
	staged        int64 // where the next data goes to on labPattern
	writers       []*kernelWriter
	leaves        int // how often the script has sent it to StandAlone
	watchers      sync.WaitGroup
}

const (
	stageFrom  = labPatternBytes // behind the pattern
	stageTo    = 48 << 20
	writerFrom = stageTo // the background writers' data

	writerPlaces = 2
	playDevice   = "/dev/drbd0"
)

func newKernelPlayer(ctx context.Context, lab *kernelLab, name string, port int) (*kernelPlayer, error) {
	k := &kernelPlayer{
		ctx: ctx, lab: lab, name: name, port: port, staged: stageFrom,
		kernel:   &kerneldrbd.Resource{Guest: lab.guest, Name: "r0", Port: 7788, Volumes: []kerneldrbd.Volume{{Disk: lab.device(labDisk)}}},
		disk:     map[string]string{"c-plan-ahead": "0", "resync-rate": "1000000", "c-min-rate": "0"},
		net:      map[string]string{"protocol": "C", "connect-int": "3", "socket-check-timeout": "3", "ping-timeout": "300"},
		resource: map[string]string{}, handlers: map[string]string{},
	}
	var err error
	k.began, err = lab.guest.Mark(ctx)
	k.marked = k.began
	return k, err
}

func words(options map[string]string) []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(options)) {
		list = append(list, "--"+name+"="+options[name])
	}
	return list
}

// kib and sectors write a number of bytes as drbdsetup wants it.
func kib(value string) (string, error) {
	n, err := number(value)
	return fmt.Sprint(n >> 10), err
}

func sectors(value string) (string, error) {
	n, err := number(value)
	return fmt.Sprintf("%ds", n/512), err
}

// config is before up or connect.
func (k *kernelPlayer) config(name, value string) (err error) {
	switch name {
	case "protocol", "ko-count", "verify-alg", "csums-alg", "allow-two-primaries", "after-sb-0pri", "after-sb-1pri", "after-sb-2pri",
		"on-congestion", "congestion-extents":
		if k.net[name] = value; value == "-1" {
			k.net[name] = "0" // never
		}
	case "congestion-fill":
		k.net[name], err = sectors(value)
	case "ping-int", "timeout":
		var d time.Duration
		d, err = time.ParseDuration(value)
		k.net[name] = fmt.Sprint(int(d / time.Second))
		if name == "timeout" {
			k.net[name] = fmt.Sprint(int(d / (time.Second / 10)))
		}
	case "disk-timeout":
		var d time.Duration
		d, err = time.ParseDuration(value)
		k.disk[name] = fmt.Sprint(int(d / (time.Second / 10)))
	case "resync-rate", "c-min-rate":
		k.disk[name], err = kib(value)
	case "c-max-rate":
		delete(k.disk, "c-plan-ahead")
		delete(k.disk, "resync-rate")
		k.disk[name], err = kib(value)
	case "al-extents", "on-io-error", "fencing":
		k.disk[name] = value
	case "on-no-data-accessible":
		k.resource[name] = value
	case "fence-peer":
		k.handlers[name] = value
	default:
		err = fmt.Errorf("the kernel has no setting %q", name)
	}
	return err
}

func (k *kernelPlayer) disks(size int64, fresh bool) error {
	if err := k.lab.guest.ResizeDisk(k.ctx, labDisk, size); err != nil {
		return err
	}
	path := k.lab.disks[labDisk]
	if err := errors.Join(os.Truncate(path, 0), os.Truncate(path, size)); err != nil {
		return err
	}
	l, err := metadata.NewLayout(metadata.V08, metadata.Internal(), size, metadata.Geometry{})
	if err != nil {
		return err
	}
	k.usable = int64(l.UsableSectors) * metadata.SectorSize
	f, err := blockdev.Open(path, blockdev.Options{NoDirect: true})
	if err != nil {
		return err
	}
	opts := metadata.CreateOptions{}
	if !fresh {
		opts = metadata.CreateOptions{EffectiveSize: l.UsableSectors, Current: 0x0123456789abcdee, Flags: metadata.Consistent | metadata.WasUpToDate}
	}
	return errors.Join(replica.CreateMetadata(replica.Disk{Device: f}, opts), f.Flush(), f.Close())
}

func (k *kernelPlayer) content() ([]byte, error) {
	b, err := os.ReadFile(k.lab.disks[labDisk])
	if err != nil {
		return nil, err
	}
	return b[:k.usable], nil
}

// up makes the resource and attaches its disk.
func (k *kernelPlayer) up(s *stage) error {
	k.kernel.DiskOptions, k.kernel.NetOptions = words(k.disk), words(k.net)
	for name, code := range k.handlers {
		if _, err := k.lab.guest.Run(k.ctx, fmt.Sprintf("mkdir -p /run/helper; echo %s >/run/helper/%s", code, name)); err != nil {
			return err
		}
		if name == "fence-peer" && code == "4" { // it really outdates the other node
			peer := s.nodes[other(k.name)]
			k.watchers.Go(func() {
				if _, _, err := k.lab.guest.WaitLog(k.ctx, k.began, regexp.MustCompile("kerneldrbd: helper fence-peer")); err == nil && peer.res != nil {
					_ = peer.vol().Outdate(k.ctx) // the script looks what came of it
				}
			})
		}
	}
	if err := k.kernel.Up(k.ctx); err != nil {
		return err
	}
	if len(k.resource) == 0 {
		return nil
	}
	_, err := k.lab.guest.Run(k.ctx, "drbdsetup-84 resource-options r0 "+strings.Join(words(k.resource), " "))
	return err
}

// end leaves the guest as it was. The stage is closed already.
func (k *kernelPlayer) end(ctx context.Context) error {
	if err := k.lab.guest.ThawDisk(ctx, labDisk); err != nil && !errors.Is(err, kerneldrbd.ErrDown) {
		return err
	}
	if len(k.writers) > 0 {
		_ = k.stop(nil)
	}
	_, err := k.lab.guest.Run(ctx, "rm -rf /run/helper; drbdsetup-84 resume-io 0 >/dev/null 2>&1; true")
	if errors.Is(err, kerneldrbd.ErrDown) {
		err = k.lab.guest.Restart(ctx)
	}
	return errors.Join(err, k.kernel.Down(ctx), k.lab.guest.ResizeDisk(ctx, labDisk, labDiskBytes))
}

func (k *kernelPlayer) history() string {
	var b strings.Builder
	for _, line := range k.lab.guest.LogSoFar(k.began) {
		fmt.Fprintf(&b, "%s (kernel) %s\n", k.name, line)
	}
	return b.String()
}

func (k *kernelPlayer) mark() (err error) {
	k.marked, err = k.lab.guest.Mark(k.ctx)
	return err
}

// guard looks for connections that broke, and for what the kernel complains about.
func (k *kernelPlayer) guard(allow map[string]bool) error {
	alone := 0
	for _, line := range k.lab.guest.LogSoFar(k.began) {
		if strings.Contains(line, "-> StandAlone )") {
			if alone++; alone > k.leaves && !allow["refused"] {
				return fmt.Errorf("the kernel goes StandAlone: %s", line)
			}
		}
		if strings.Contains(line, "full sync required after") && !allow["full"] {
			return fmt.Errorf("full must not happen on the kernel: %s", line)
		}
		if m := brokenConnection.FindStringSubmatch(line); m != nil && !allow[m[1]] && !neverConnected.MatchString(line) {
			return fmt.Errorf("%s must not happen on the kernel: %s", m[1], line)
		}
		if complains(line) {
			return fmt.Errorf("the kernel complains: %s", line)
		}
	}
	return nil
}

// gaveUp reports whether the kernel has given up that many connections of its own.
func (k *kernelPlayer) gaveUp(times int) bool {
	return soon(func() bool { return k.gaveUpSoFar() >= times })
}

func (k *kernelPlayer) gaveUpSoFar() (seen int) {
	for _, line := range k.lab.guest.LogSoFar(k.began) {
		if gaveUpItself(line) {
			seen++
		}
	}
	return seen
}

var stateChange = regexp.MustCompile(`(\w+)\( (\w+) -> (\w+) \)`)

// passed are the values that a field of the state went through since the mark.
func (k *kernelPlayer) passed(field string) []string {
	var list []string
	for _, line := range k.lab.guest.LogSoFar(k.marked) {
		for _, m := range stateChange.FindAllStringSubmatch(line, -1) {
			if m[1] != field {
				continue
			}
			if field == "susp" {
				m[3] = map[string]string{"0": "false", "1": "true"}[m[3]]
			}
			list = append(list, m[3])
		}
	}
	return list
}

// resyncs are those that began since the mark, in bytes.
func (k *kernelPlayer) resyncs() (list []int64, err error) {
	for _, line := range k.lab.guest.LogSoFar(k.marked) {
		if _, rest, ok := strings.Cut(line, " (will sync "); ok {
			var kib int64
			if _, err := fmt.Sscanf(rest, "%d KB", &kib); err != nil {
				return nil, fmt.Errorf("%s: %w", line, err)
			}
			list = append(list, kib<<10)
		}
	}
	return list, nil
}

func (k *kernelPlayer) state() (kerneldrbd.Minor, error) {
	return k.kernel.State(k.ctx, k.kernel.Volumes[0])
}

// holds is an actor's, from /proc/drbd.
func (k *kernelPlayer) holds(m kerneldrbd.Minor, conditions []string) (bool, error) {
	values := map[string]string{"conn": m.Conn, "role": m.Role, "peer": m.Peer, "disk": m.Disk, "pdsk": m.PeerDisk,
		"susp": strconv.FormatBool(strings.HasPrefix(m.Flags, "s"))}
	counts := map[string]int64{"oos": m.OutOfSync(), "pending": m.Counters["pe"], "unacked": m.Counters["ua"], "local": m.Counters["lo"], "app": m.Counters["ap"],
		"sent": m.Counters["ns"] << 10, "received": m.Counters["nr"] << 10, "written": m.Counters["dw"] << 10, "read": m.Counters["dr"] << 10,
		"al": m.Counters["al"], "bm": m.Counters["bm"],
		"hung": 0, "ap-in-flight": 0, "rs-in-flight": 0} // it does not tell
	all := true
	for _, c := range conditions {
		p := condition.FindStringSubmatch(c)
		if p == nil {
			return false, fmt.Errorf("%q is no condition", c)
		}
		if v, ok := values[p[1]]; ok {
			all = all && slices.Contains(strings.Split(p[3], "|"), v) == (p[2] == "=")
			continue
		}
		have, ok := counts[p[1]]
		want, err := number(p[3])
		if !ok || err != nil {
			return false, fmt.Errorf("%q is neither a state nor a counter of the kernel", c)
		}
		all = all && map[string]bool{"=": have == want, "!=": have != want, "<": have < want, ">": have > want, "<=": have <= want, ">=": have >= want}[p[2]]
	}
	return all, nil
}

// soon asks again for some time, since the kernel's log may be under way.
func soon(ok func() bool) bool {
	for range 1000 {
		if ok() {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}
