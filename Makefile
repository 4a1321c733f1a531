# Two commands do all the set-up: `make demo` shows Lehr on this machine, `make
# test` runs every test. `make build` needs only Go and leaves bin/lehr.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
GVISOR   := $(shell $(GO) list -m -f '{{.Version}}' gvisor.dev/gvisor 2>/dev/null)
ASSETS   := internal/assets/bin
TOOL     := $(GO) tool -modfile=tools/go.mod
PACKAGES := ./...
STATIC   := CGO_ENABLED=0 $(GO) build -trimpath

.DELETE_ON_ERROR:
.PHONY: build demo test check unit e2e lint generate release-api licences bench clean

build:
	$(STATIC) -ldflags '-s -w -X gvisor.dev/gvisor/runsc/version.version=$(GVISOR)' -o $(ASSETS)/lehr-sentry ./cmd/lehr-sentry
	$(STATIC) -ldflags '-s -w' -o $(ASSETS)/lehr-init ./cmd/lehr-init
	$(STATIC) -ldflags '-s -w -X github.com/lehr-dev/lehr/internal/program.version=$(VERSION)' -o bin/lehr ./cmd/lehr

demo:
	@tools/need.sh demo
	@$(MAKE) --no-print-directory build
	@$(GO) run ./examples/demo -lehr bin/lehr -recipes examples

# Everything: what it needs is installed first, and a suite that was skipped
# for a missing part of the machine fails it (test/runner).
test:
	@tools/need.sh test
	@$(MAKE) --no-print-directory build check unit e2e

check: lint
	$(GO) vet $(PACKAGES)
	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 $(GO) vet ./cmd/... ./internal/... ./sdk/... ./api/...
	$(GO) test -count=1 ./internal/archtest
	$(TOOL) buf lint
	$(TOOL) buf breaking --against api/released.binpb
	$(GO) -C tools run ./licences -check
	$(GO) -C tools test ./...
	@tools/generated.sh

lint:
	@files=$$($(TOOL) gofumpt -l $$(git ls-files '*.go' | grep -v '^api/gen/')); [ -z "$$files" ] || { echo "not formatted with gofumpt:"; echo "$$files"; exit 1; }
	$(TOOL) staticcheck $(PACKAGES)

unit:
	$(GO) run ./test/runner -race -count=1 -timeout 20m $$($(GO) list ./... | grep -v -E '/(test/e2e|test/compat|test/bench|archtest)$$')

e2e:
	LEHR_BIN=$(CURDIR)/bin/lehr $(GO) run ./test/runner -count=1 -timeout 60m -v ./test/e2e ./test/compat

generate:
	$(TOOL) buf generate
	$(TOOL) buf build -o - | $(GO) -C tools run ./openapi

# What later changes of the API must stay compatible with; made at a release.
release-api:
	$(TOOL) buf build -o api/released.binpb

# What the three programs are linked with, and under which licences.
licences:
	$(GO) -C tools run ./licences

bench: build
	LEHR_BIN=$(CURDIR)/bin/lehr $(GO) test -count=1 -timeout 30m -v -run TestFigures ./test/bench -figures

clean:
	rm -rf bin $(ASSETS)/lehr-sentry $(ASSETS)/lehr-init
