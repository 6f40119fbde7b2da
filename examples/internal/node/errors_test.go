// Copyright The blockmirror Authors
// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/go-blockmirror/blockmirror/metadata"
	"github.com/go-blockmirror/blockmirror/protocol"
	"github.com/go-blockmirror/blockmirror/replica"
	"github.com/go-blockmirror/blockmirror/replica/blockdev"
)

// TestTranslate: what the SDK returns, in drbdsetup's words and with its exit code.
func TestTranslate(t *testing.T) {
	for _, row := range []struct {
		err  error
		exit int
		says string
	}{
		{replica.ErrAttached, 10, "Failure: (124) Device is attached to a disk"},
		{replica.ErrDataStale, 10, "Failure: (150) Can only attach to the data we lost last"},
		{replica.ErrShrink, 10, "Failure: (170) Implicit device shrinking not allowed."},
		{replica.ErrHung, 10, "Failure: (114) Lower device is already claimed."},
		{replica.ErrDiskTimeout, 10, "Failure: (118) IO error(s) occurred during initial access to meta-data."},
		{fmt.Errorf("attach: %w: %w", replica.ErrIO, blockdev.ErrInjected), 10, "Failure: (118) "},
		{replica.ErrConnected, 10, "Failure: (125) "},
		{metadata.ErrNoMetadata, 10, "Failure: (119) No valid meta-data signature found."},
		{metadata.ErrInvalidLocation, 10, "Failure: (116) Lower device / meta device / index combination invalid."},
		{metadata.ErrDeviceTooSmall, 10, "Failure: (111) "},
		{blockdev.ErrBusy, 10, "Failure: (114) "},
		{fs.ErrNotExist, 10, "Failure: (104) Can not open backing device."},
		{replica.ErrConfig, 10, "Failure: (162) Invalid configuration request"},
		{context.Canceled, 10, "Failure: (129) Interrupted by Signal"},
		{protocol.CodeNoUpToDateDisk, 17, "State change failed: (-2) "},
		{protocol.CodeLowerThanOutdated, 5, "State change failed: (-16) "},
		{protocol.CodeNoLocalDisk, 16, "State change failed: (-4) "},
		{protocol.CodeTwoPrimaries, 11, "State change failed: (-1) "},
		{replica.ErrNoUpToDateData, 17, "State change failed: (-2) "},
		{replica.ErrDiskless, 11, "State change failed: (-11) "},
		{replica.ErrInUse, 11, "State change failed: (-12) "},
	} {
		var e *Error
		require.ErrorAs(t, translate(fmt.Errorf("doing: %w", row.err)), &e, "%v", row.err)
		require.Equal(t, row.exit, e.Exit, "%v", row.err)
		require.Contains(t, e.Error(), row.says)
	}
	require.NoError(t, translate(nil))
}

// TestEveryCode: each configuration error that this node gives (spec: behaviour 10.4)
// has a command, or an error of the SDK, in a test.
func TestEveryCode(t *testing.T) {
	var tests strings.Builder
	for _, pattern := range []string{"*_test.go", "../daemon/*_test.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, f := range files {
			text, err := os.ReadFile(f)
			require.NoError(t, err)
			tests.Write(text)
		}
	}
	for code, text := range codeText {
		require.Contains(t, tests.String(), fmt.Sprintf("(%d)", code), text)
	}
}
