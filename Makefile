# The commands that matter: make, make test, make check. CONTRIBUTING.md says more.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

# Set once, for every go command below: two sets of flags would compile everything twice.
# The race detector needs cgo; the binary is built with it too, so that both share what they can.
export GOFLAGS ?= -buildvcs=false
export CGO_ENABLED ?= 1

ENVOY := $(or $(CHANCERY_ENVOY),$(CURDIR)/.cache/envoy/1.40.0/envoy)
TOOL  := go tool -modfile=tools/go.mod

TEST_TIMEOUT ?= 20m
FUZZTIME     ?= 20s
BENCH        ?= .
COUNT        ?= 6
# Seeds of the simulator: a SEED given by hand, else fresh ones for SIMTIME seconds.
SEED    ?=
SIMTIME ?= 60
STEPS   ?= 100000

##@ Every day

.PHONY: build
build: ## build bin/chancery
	go build -o bin/ ./cmd/chancery

.PHONY: test
test: envoy ## set everything up and run every test
	go test -race -shuffle=on -timeout $(TEST_TIMEOUT) ./...

.PHONY: check
check: static test fuzz sim ## all of CI

.PHONY: demo
demo: build envoy ## the guided tour through a real Envoy; SCRIPT=1 walks it without a terminal
	bin/chancery demo --envoy $(ENVOY) $(if $(SCRIPT),--script)

.PHONY: fmt
fmt: ## format every Go file
	$(TOOL) golangci-lint fmt

.PHONY: golden
golden: ## write the golden files and scenarios anew; read the difference before you commit it
	tools/golden.sh

.PHONY: generate
generate: ## write the generated code anew
	go generate ./...

##@ Measure and search

.PHONY: bench
bench: envoy ## run BENCH COUNT times and print medians; the raw numbers stay in .cache/bench
	tools/bench.sh '$(BENCH)' '$(COUNT)'

.PHONY: chaos
chaos: ## run the simulator with one SEED, the way to see a printed failure again
	@[[ -n "$(SEED)" ]] || { echo "which seed? make chaos SEED=42" >&2; exit 64; }
	@$(MAKE) --no-print-directory build
	bin/chancery chaos sim --seed $(SEED) --seeds 1 --steps $(STEPS)

.PHONY: sim
sim: build ## run the simulator on fresh seeds for SIMTIME seconds
	tools/sim.sh $(SIMTIME) $(STEPS)

.PHONY: fuzz
fuzz: ## fuzz every target for FUZZTIME
	tools/fuzz.sh $(FUZZTIME)

.PHONY: soak
soak: build envoy ## the full counts: hours
	CHANCERY_SOAK=1 go test -shuffle=on -timeout 24h ./...
	bin/chancery chaos sim --seed 1 --seeds 100 --steps 100000
	tools/fuzz.sh 1h

##@ Parts of check

.PHONY: static
static: lint tidy generated ## everything that runs no test

.PHONY: lint
lint: ## formatting, vet and the linters
	$(TOOL) golangci-lint fmt --diff
	go vet ./...
	$(TOOL) golangci-lint run

.PHONY: tidy
tidy: ## both go.mod files are tidy
	go mod tidy -diff
	cd tools && go mod tidy -diff

.PHONY: generated
generated: ## go generate changes nothing
	tools/generated.sh

.PHONY: envoy
envoy: ## install the pinned Envoy under .cache
	@tools/envoy.sh >/dev/null

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
