// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package web shows a node to people and to monitoring: one page, its data as a stream,
// metrics and health. It changes nothing.
//
//	GET /           the page: one file without anything from elsewhere
//	GET /events     server-sent events: "state" with every change, "history" once,
//	                "sample" every second
//	GET /api/state  what "state" holds
//	GET /proc/drbd  as a kernel with DRBD would show it
//	GET /metrics    for Prometheus
//	GET /healthz    200 while the process works
//	GET /readyz     200 when the configuration is in service and no resource has failed
package web
