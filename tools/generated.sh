#!/bin/sh
# Fails when generated code in api/gen differs from what the .proto files give.
set -eu
before=$(find api/gen -name '*.go' -exec sha256sum {} + | sort)
go tool -modfile=tools/go.mod buf generate
after=$(find api/gen -name '*.go' -exec sha256sum {} + | sort)
[ "$before" = "$after" ] || { echo "api/gen was not up to date; commit what 'make generate' made" >&2; exit 1; }
