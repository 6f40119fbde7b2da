// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

// Package tidy has the rules of the house as a test. It holds no code of the product.
//
//	go test ./internal/tidy
//
//	files     licence header, length, no path of anybody's machine        files_test.go
//	packages  who may import whom, what a pure package must not touch      packages_test.go
//	comments  a doc.go each, a doc comment for each exported name          comments_test.go
//	documents links that lead somewhere                                     documents_test.go
package tidy
