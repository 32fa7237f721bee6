# syntax=docker/dockerfile:1
# The gateway alone, on a base without shell or package manager: `docker build -t chat-gateway .`
#
# Images are pinned by tag. A release pins them by digest, too: name:tag@sha256:... (`docker buildx imagetools inspect name:tag`
# tells it), here and in docker-compose.yml; the tag is then for the reader.
ARG RUST_IMAGE=rust:1.95-slim-bookworm
# Of the same Debian as the image above, whose C library it must have.
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot
ARG UPKEEP_IMAGE=debian:12.12-slim

# The dependencies, compiled with empty sources of our own: a layer that stays until Cargo.lock or a manifest changes. SQLite and
# the cryptography bring C sources; the image has a C compiler.
FROM ${RUST_IMAGE} AS dependencies
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY shared/Cargo.toml shared/
COPY gateway/Cargo.toml gateway/build.rs gateway/
# A workspace has all of its members, or cargo does not begin: those that the image does not need are left out of the list.
RUN sed -i 's/^members = .*/members = ["shared", "gateway"]/' Cargo.toml \
    && mkdir -p shared/src gateway/src migrations \
    && touch shared/src/lib.rs gateway/src/lib.rs \
    && echo 'fn main() {}' > gateway/src/main.rs \
    && cargo build --release --package gateway

FROM dependencies AS build
COPY migrations migrations
COPY shared/src shared/src
COPY gateway/src gateway/src
# Newer than what was compiled above, whatever their times were in the build context.
RUN find shared/src gateway/src gateway/build.rs -type f -exec touch {} + \
    && cargo build --release --package gateway \
    && strip --strip-debug target/release/gateway

# For `gateway backup` and `gateway restore`, which need the database's own tools: `docker build --target upkeep .`
FROM ${UPKEEP_IMAGE} AS upkeep
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates mariadb-client \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/gateway /usr/local/bin/gateway
USER 65532:65532
ENV APP_ENV=production
ENTRYPOINT ["/usr/local/bin/gateway"]

FROM ${RUNTIME_IMAGE}
COPY --from=build /src/target/release/gateway /usr/local/bin/gateway
# The base's `nonroot`, as a number: Kubernetes' runAsNonRoot wants one.
USER 65532:65532
ENV APP_ENV=production \
    METRICS_ADDR=0.0.0.0:9464
EXPOSE 5000 9464
# Ready, not only alive; asked by the binary itself, for there is nothing else here.
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 CMD ["/usr/local/bin/gateway", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/gateway"]
CMD ["serve"]
