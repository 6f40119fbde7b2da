// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package metrics shows a node to Prometheus.
//
//	drbd_...         names and labels as drbd-reactor's exporter has them, so that its
//	                 alerts and dashboards fit. They are written from its published
//	                 documentation as we know it and were not compared with a running one.
//	blockmirror_...  our own: latencies, resync progress, clients
//	go_..., process_...
//
// Everything is read from the node when Prometheus asks; nothing is kept.
package metrics
