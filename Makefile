# The commands of this project. `make help` lists them.

.DEFAULT_GOAL := help
.PHONY: help run chat test chaos fuzz bench bench-parts scale lint fmt loadtest k8s-rules fault-commit-kill fault-rolling fault-crash-storm fault-slow-reader upkeep operator

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The dev profile: it builds several times faster than a release and is quick enough to chat with.
run: ## Start one node on http://localhost:5000 with nothing else installed; it prints where to look and who may log in
	cargo run --package gateway

# Make itself has an AS, the assembler: that one is not meant.
chat: ## Chat in this terminal with the node of `make run`: make chat AS=client, in another one make chat AS=agent; GATEWAY_URL names another node
	@npm ci --prefix examples/chat --silent --no-audit --no-fund
	@node examples/chat/chat.mjs $(if $(filter default,$(origin AS)),client,$(AS))

test: ## Install what the tests need (Debian), start private servers, run every suite; the last line counts them all
	scripts/test

# Make hands on what stands on its command line: SECONDS=60 may stand before or after `make chaos`.
chaos: ## Ten minutes of faults under real clients, checked from outside: SECONDS, SEED and more, see tests/chaos/README.md
	@scripts/install-packages
	$(if $(GATEWAY_BIN),,cargo build --package gateway)
	@npm ci --prefix tests/e2e --silent --no-audit --no-fund
	@GATEWAY_BIN="$${GATEWAY_BIN:-$$(scripts/target-directory)/debug/gateway}" node tests/chaos/main.mjs

fuzz: ## Look for inputs that break what reads the network, guided by coverage: make fuzz TIME=600 (seconds in all) TARGET=socket_io (one of fuzz/fuzz_targets; all if not given)
	@scripts/fuzz

lint: ## Check the formatting, and every lint as an error
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings

bench: ## Measure the gateway beside its peers on two quiet cores, half an hour; writes docs/benchmarks.md (see loadtest/README.md)
	scripts/bench

bench-parts: ## Time the inner parts by themselves: frames, fan-out to 10,000, and the publish script in a private Redis
	scripts/with-servers cargo bench --package gateway --bench parts

scale: ## Measure 1 to 4 nodes, 100,000 conversations, 10 million messages, 100,000 connections; writes docs/scale.md (SCALE_ONLY, SCALE_MESSAGES)
	scripts/scale

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

upkeep: ## Archive, back up and restore a million messages while two people chat on them: times and counts (MESSAGES, CONVERSATIONS)
	@scripts/fault upkeep

operator: ## Follow README.md, "In production", to the letter while people chat: nobody is logged out (CLIENTS, RATE, DRAIN_SECONDS, GATEWAY_NEXT_BIN)
	@scripts/fault operator

loadtest: ## Load a cluster of two nodes with k6 for two minutes, and print the summary: PROFILE=smoke|load|stress|spike|soak, BASE_URL for one elsewhere
	loadtest/k6/run $(PROFILE)

k8s-rules: ## Write monitoring/kubernetes/prometheus-rules.yaml anew from monitoring/prometheus/rules
	scripts/k8s-rules
