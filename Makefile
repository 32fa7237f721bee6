# The commands of this project. `make help` lists them.

.DEFAULT_GOAL := help
.PHONY: help run chat test lint fmt fault-commit-kill fault-rolling fault-crash-storm fault-slow-reader

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

fmt: ## Format the sources
	cargo fmt

fault-commit-kill: ## Kill a node 200 times between commit and publish: everybody hears everything (KILLS, BLIND, VICTIMS)
	@scripts/fault commit-kill

fault-rolling: ## Restart three nodes in turn under 500 messages a second: nobody misses anything (RATE, CLIENTS, AGENTS, NODES, DRAIN_SECONDS)
	@scripts/fault rolling

fault-crash-storm: ## Kill a node with 10,000 clients: all are back and recovered on the other within 15 s (CLIENTS, MISSED, PROCESSES)
	@scripts/fault crash-storm

fault-slow-reader: ## Readers that never read: memory is bounded, others hear as fast (READERS, SLOW, RATE, BYTES, ROUNDS, TURN_SECONDS)
	@scripts/fault slow-reader
