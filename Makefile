# make help lists the targets.

GO        ?= go
PREFIX    ?= /usr/local
DESTDIR   ?=
FUZZTIME  ?= 10m
TESTFLAGS ?=

VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# The date of the man pages: the same whenever they are made.
COMMIT_TIME := $(shell git log -1 --format=%ct 2>/dev/null || date +%s)
TOOL     := $(GO) tool -modfile=tools/go.mod
UID      := $(shell id -u)
# Not ./...: data/ holds whole Debian trees.
PACKAGES := $(if $(wildcard *.go),.) $(if $(wildcard conf/*.go),./conf/...) ./cmd/... ./internal/...
SOURCES  := $(wildcard *.go conf/*.go) cmd internal test

# All the CPUs' worth of packages at once would make guests and packers time out.
UNIT_FLAGS := -p 2 -timeout 15m
E2E_FLAGS  := -count=1 -timeout 70m

export CGO_ENABLED = 0

.DEFAULT_GOAL := build
.PHONY: help deps build test test-kernel bench-boot check demo install fuzz clean bench-build bench-session

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r t d; do printf '  %-11s %s\n' "$$t" "$$d"; done

deps: ## install what meros needs on this host and make libvirt answer
ifeq ($(UID),0)
	./dist-conf.sh $(DEPS)
else
	./dist-conf.sh --check $(DEPS) || sudo ./dist-conf.sh $(DEPS)
endif

build: ## build the static binary bin/meros
	$(GO) build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)" -o bin/meros ./cmd/meros

test: DEPS = --with-xpra --for-tests
test: deps build ## run all tests; the end-to-end tests, with real guests, need root
	$(GO) vet $(PACKAGES) ./test/...
	$(GO) test $(UNIT_FLAGS) $(TESTFLAGS) $(PACKAGES)
ifeq ($(UID),0)
	MEROS_E2E=1 $(GO) test $(E2E_FLAGS) $(TESTFLAGS) ./test/e2e/...
else
	@echo 'make: left out: the end-to-end tests, which build and boot real guests and so need root'
	@echo 'make: to run them too: sudo env "PATH=$$PATH" make test'
endif

# What test-kernel compiles stays here: another run, and the other tests, take it.
KERNEL_KEPT ?= $(CURDIR)/data/build/test-kernel
ROUNDS      ?= 3

test-kernel: DEPS = --with-kernel-build
test-kernel: deps build ## compile the guests' kernel (7 min on two cores, once) and boot Debian and Alpine on it; needs root
	MEROS_E2E=1 MEROS_TEST_KERNEL='$(KERNEL_KEPT)' $(GO) test $(E2E_FLAGS) $(TESTFLAGS) -tags kernel -v -run '^TestKernel$$' ./test/e2e/...

bench-boot: DEPS = --with-kernel-build
bench-boot: deps build ## measure ROUNDS (3) times how fast kernels boot, side by side; needs root
	MEROS_E2E=1 MEROS_TEST_KERNEL='$(KERNEL_KEPT)' MEROS_BENCH_BOOT=$(ROUNDS) $(GO) test $(E2E_FLAGS) $(TESTFLAGS) -tags kernel -v -run '^TestBenchBoot$$' ./test/e2e/...

check: ## look for faults without running anything: format, vet, staticcheck, known vulnerabilities
	@echo '$(TOOL) gofumpt -l $(SOURCES)'; \
	unformatted=$$($(TOOL) gofumpt -l $(SOURCES)) || exit; \
	if [ -n "$$unformatted" ]; then echo "not formatted by gofumpt:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet -tags kernel,bench $(PACKAGES) ./test/...
	$(TOOL) staticcheck -tags kernel,bench $(PACKAGES) ./test/...
	tools/vulncheck.sh $(TOOL) govulncheck $(PACKAGES)

demo: deps build ## build the family mos_demo, boot it, use it, shut it down
	scripts/demo.sh

install: bin/meros ## put binary, completions and man pages under $(DESTDIR)$(PREFIX)
	install -D -m 0755 bin/meros '$(DESTDIR)$(PREFIX)/bin/meros'
	install -d '$(DESTDIR)$(PREFIX)/share/bash-completion/completions' '$(DESTDIR)$(PREFIX)/share/zsh/site-functions' '$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d'
	bin/meros completion bash >'$(DESTDIR)$(PREFIX)/share/bash-completion/completions/meros'
	bin/meros completion zsh >'$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_meros'
	bin/meros completion fish >'$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/meros.fish'
	SOURCE_DATE_EPOCH=$(COMMIT_TIME) bin/meros man '$(DESTDIR)$(PREFIX)/share/man/man1'
	install -D -m 0644 man/meros-recipe.5 '$(DESTDIR)$(PREFIX)/share/man/man5/meros-recipe.5'

# Only when there is none: root, who installs, often has no Go on the PATH.
bin/meros:
	$(MAKE) build

fuzz: ## run every fuzz test for FUZZTIME (10m unless set)
	tools/fuzz.sh $(FUZZTIME) $(PACKAGES)

bench-build: DEPS = --for-bench
bench-build: deps build ## compare builds with those of other tools, in turns, ROUNDS (3) times; needs root; writes docs/performance.md
	ROUNDS='$(ROUNDS)' $(GO) test -run '^$$' -bench BenchmarkBuild -benchtime 1x -timeout 3h ./test/bench

bench-session: DEPS = --with-xpra --for-tests
bench-session: deps build ## compare sessions with ssh, scp and rsync, on a real guest; needs root
	MEROS_E2E=1 MEROS_BENCH_SESSION=1 $(GO) test $(E2E_FLAGS) -tags bench -run TestBenchSession -v ./test/e2e

clean: ## remove what make build made; data/ stays
	rm -rf bin
