# Caddy with the audit log inside, from this source tree:
#
#	docker build -f xcaddy.Dockerfile -t caddy-audit-log .
#	docker run -p 80:80 -p 443:443 -v caddy_data:/data -v $PWD/Caddyfile:/etc/caddy/Caddyfile caddy-audit-log
#
# The log is in the volume, with Caddyfile.example too: /data/caddy/audit_log/audit.db. Give a stop its time:
# docker run --stop-timeout 20, and grace_period in the Caddyfile (docs/operations.md).
ARG CADDY_VERSION=2.11.9

FROM caddy:${CADDY_VERSION}-builder AS builder
ARG CADDY_VERSION
COPY . /src
RUN --mount=type=cache,target=/cache GOMODCACHE=/cache/mod GOCACHE=/cache/build \
	xcaddy build v${CADDY_VERSION} \
	--with github.com/caddy-audit-log/caddy-audit-log/caddymodule \
	--with github.com/caddy-audit-log/caddy-audit-log/caddymodule/postgres \
	--replace github.com/caddy-audit-log/caddy-audit-log=/src

FROM caddy:${CADDY_VERSION}
ENV AUDIT_DB=/data/caddy/audit_log/audit.db AUDIT_KEY=/data/caddy/audit_log/hash.key
COPY --from=builder /usr/bin/caddy /usr/bin/caddy
