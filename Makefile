# The commands of this project. `make help` lists them.

.DEFAULT_GOAL := help
.PHONY: help run chat test lint fmt bench

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The dev profile: it builds several times faster than a release and is quick enough to chat with.
run: ## Start one node on http://localhost:5000 with nothing else installed; it prints where to look and who may log in
	cargo run --package gateway

# Make itself has an AS, the assembler: that one is not meant.
chat: ## Chat in this terminal with the node of `make run`: make chat AS=client, in another one make chat AS=agent; GATEWAY_URL names another node
	@npm ci --prefix examples/chat --silent --no-audit --no-fund
	@node examples/chat/chat.mjs $(if $(filter default,$(origin AS)),client,$(AS))

test: ## Install what the tests need (Debian), start private servers, run every suite; the last line counts them all
	scripts/test

lint: ## Check the formatting, and every lint as an error
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings

bench: ## Measure the gateway beside its peers on two quiet cores, half an hour; writes docs/benchmarks.md (see loadtest/README.md)
	scripts/bench

fmt: ## Format the sources
	cargo fmt
