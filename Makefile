# `make` lists the targets. They need Go and make, and `race` a C compiler.

GO        ?= go
EXAMPLE   ?= flights
# What `bench` runs: PACKAGES, the benchmarks that match BENCH, for BENCHTIME each.
PACKAGES  ?= ./...
BENCH     ?= .
BENCHTIME ?= 1s
# How long `soak` begins new schedules, the seed of the first (drawn where there is none), and more of its flags.
FOR       ?= 10m
SEED      ?=
SOAK      ?=

# Tools are built once into bin/, which git ignores; the version is part of the file's name.
GOLANGCI_VERSION    := v2.15.0
GOVULNCHECK_VERSION := v1.9.0
GOLANGCI    := bin/golangci-lint-$(GOLANGCI_VERSION)
GOVULNCHECK := bin/govulncheck-$(GOVULNCHECK_VERSION)

# Runs a test command and says which services its suites used, and what did not run.
SUMMARY := $(GO) run ./internal/testsummary

# The comparison on Kafka is a module of its own, so that the systems in it are not among Millrace's dependencies.
PEERS := benchmarks/peers

.DEFAULT_GOAL := help
.PHONY: help run test race integration soak bench lint verify fmt check-format check-docs check-vulnerabilities

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## run an example: EXAMPLE=flights
	$(GO) run ./examples $(EXAMPLE)

test: ## run all tests; services that are not there are left out and told
	cd $(PEERS) && $(GO) test ./...
	$(SUMMARY) $(GO) test ./...

# A program under the race detector sleeps for a second before it exits; tests start hundreds, and leave no goroutines.
race: export GORACE := atexit_sleep_ms=0 $(GORACE)
race: ## run all tests under the race detector
	cd $(PEERS) && $(GO) test -race ./...
	$(SUMMARY) $(GO) test -race -timeout 20m ./...

integration: ## run all tests anew, and fail where a service is missing (Docker)
	MILLRACE_REQUIRE=containers $(SUMMARY) $(GO) test -count=1 ./...

soak: ## kill and stop real processes over Kafka, and count: FOR=10m SEED=1 SOAK='-brokers host:9092'
	$(GO) run ./benchmarks/soak -for $(FOR) $(if $(SEED),-seed $(SEED)) $(SOAK)

bench: ## run benchmarks: PACKAGES=./... BENCH=. BENCHTIME=1s
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -benchmem $(PACKAGES)

lint: $(GOLANGCI) ## run the linters, layers included
	$(GOLANGCI) run ./...
	cd $(PEERS) && $(CURDIR)/$(GOLANGCI) run ./...

verify: check-format lint check-docs check-vulnerabilities ## check what is not a test: format, vet, linters, docs
	$(GO) vet ./...
	$(GO) mod tidy -diff
	cd $(PEERS) && $(GO) vet ./... && $(GO) mod tidy -diff

fmt: ## format the code
	gofmt -w .

check-format:
	@files=$$(gofmt -l .) && test -z "$$files" || { echo "not formatted (make fmt):"; echo "$$files"; exit 1; }

check-docs:
	$(GO) run ./internal/doccheck README.md CONTRIBUTING.md CHANGELOG.md benchmarks docs

# Exit code 3 means that something was found. Anything else means that it could not run, mostly for want of the
# vulnerability database; that is told and passed over, so that `verify` works without a network.
check-vulnerabilities: $(GOVULNCHECK)
	@$(GOVULNCHECK) ./... || { code=$$?; test $$code -ne 3 && echo "govulncheck did not run (exit code $$code): not checked for known vulnerabilities"; }

$(GOLANGCI):
	GOBIN=$(CURDIR)/bin $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv bin/golangci-lint $@

$(GOVULNCHECK):
	GOBIN=$(CURDIR)/bin $(GO) install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)
	mv bin/govulncheck $@
