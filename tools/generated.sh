#!/bin/sh
# Fails when generated code in api/gen, or api/openapi, differs from what the
# .proto files give.
set -eu
sums() { find api/gen -name '*.go' -exec sha256sum {} + | sort; sha256sum api/openapi/lehr.v1.json; }
before=$(sums)
make --no-print-directory generate >/dev/null
after=$(sums)
[ "$before" = "$after" ] || { echo "api/gen or api/openapi was not up to date; commit what 'make generate' made" >&2; exit 1; }
