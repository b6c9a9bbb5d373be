# Two commands do everything on a fresh machine with Rust and a C compiler: `make demo` and `make test`.

CARGO ?= cargo
# How long `make soak` lets tasks arrive; a fraction will do.
HOURS ?= 4

.PHONY: help demo test check ci fmt lint docs bench soak deploy gpu-check model models needs

help: ## Shows the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: ## The whole fleet in one process: no server, no GPU
	$(CARGO) run -p cli --no-default-features --features predict -- demo

needs: ## Installs what the tests need from the distribution's packages, where it is missing
	scripts/install-test-needs

test: needs ## Every test, on private RabbitMQ and Redis instances
	$(CARGO) test --workspace

deploy: needs ## Judges deploy/ by the tools that load it; says which could not be run
	$(CARGO) test --workspace --test deploy

fmt: ## Formats the code
	$(CARGO) fmt --all

lint: ## Format and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

docs: ## The API's pages, warnings denied
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet

check: ci ## What CI does

ci: lint docs test ## Format, clippy, docs, tests

bench: needs ## Throughput, latency, claims, scaling and cost at rest against yardsticks of the same run; writes bench.json
	$(CARGO) build --release --quiet --workspace --bin gpufleet --bin bench
	target/release/bench

soak: needs ## The fleet for HOURS=4 under load and faults: nothing may be lost, grow or be left; writes target/soak/report.md
	$(CARGO) build --release --quiet --workspace --bin gpufleet --bin soak
	target/release/soak --hours $(HOURS)

gpu-check: ## On a machine with an NVIDIA GPU: what fake libraries cannot show; writes docs/gpu-check.md
	$(CARGO) build --release --quiet --workspace --bin gpufleet --bin gpu-check
	scripts/gpu-check

model: ## Fetches a small real model (SmolLM2-135M, Apache-2.0) for `predict` into models/
	scripts/fetch-model

models: ## Fetches ONNX Runtime (CPU), all-MiniLM-L6-v2 and magika for `onnx`, `embed` and `classify` into models/
	scripts/fetch-models
