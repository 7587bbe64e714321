# make help says what there is.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

EXAMPLE := examples/better-auth
CLIENT := clients/better-auth
SERVERS := e2e/servers
VIEWER := viewer/testdata
# What go test runs; FLAGS=-run=Replay narrows it.
PKGS ?= ./...
FLAGS ?=

.PHONY: help
help: ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

.PHONY: build
build: ## build Caddy with the audit log inside, as ./caddy
	go build -o caddy ./cmd/caddy

.PHONY: demo
demo: $(EXAMPLE)/node_modules/.installed ## a real Better Auth server behind our Caddy, and what is recorded
	@go run ./$(EXAMPLE)/demo

.PHONY: test
test: tools $(EXAMPLE)/node_modules/.installed $(CLIENT)/node_modules/.installed $(VIEWER)/node_modules/.installed servers vet ## everything, race detector on; what was skipped and why
	go run ./e2e/report -race -timeout 40m $(FLAGS) $(PKGS)
	go test -run 'Alloc' ./exchange ./profile ./severity
	cd bench && go test .

.PHONY: test-kratos
test-kratos: tools ## a real Ory Kratos behind our Caddy (fetched and built on first use, takes minutes)
	go run ./e2e/report -race -timeout 40m -tags kratos -run Kratos ./e2e

# What PostgreSQL's store and its users do, in each version beside the machine's own.
VERSIONS ?= 14 16 17 18
.PHONY: test-postgres
test-postgres: tools servers ## all that concerns PostgreSQL, with each of its versions (VERSIONS="14 18"), race detector on
	for version in $(VERSIONS); do \
		echo "== PostgreSQL $$version"; \
		export AUDIT_TEST_POSTGRES_BIN="$(CURDIR)/$(SERVERS)/postgres/node_modules/postgres-$$version-x64/native/bin"; \
		"$$AUDIT_TEST_POSTGRES_BIN/postgres" --version; \
		go run ./e2e/report -race -timeout 40m ./storage/postgres/... ./caddymodule/postgres; \
		go run ./e2e/report -race -timeout 40m -run 'Postgres|Fleet|TestGate03|TestGate20' ./e2e ./caddymodule; \
	done

.PHONY: servers
servers: $(SERVERS)/authjs/node_modules/.installed $(SERVERS)/postgres/node_modules/.installed
	cd $(SERVERS)/pocketbase && go build -o $(CURDIR)/.cache/bin/pocketbase github.com/pocketbase/pocketbase/examples/base

# DOCS=1 writes the table into the document, too. The race detector is make test's: here
# it would make every figure one of its own.
.PHONY: acceptance
acceptance: tools $(EXAMPLE)/node_modules/.installed $(VIEWER)/node_modules/.installed ## the gates with their full figures, an hour or more on an idle machine; a table at the end
	ACCEPTANCE=full go run ./e2e/report $(if $(DOCS),-gates=docs/reliability.md) -count=1 -p 1 -timeout 120m -run 'TestGate' ./...

.PHONY: vet
vet: ## go vet and gofmt
	go vet ./...
	go vet -tags kratos ./e2e
	cd bench && go vet .
	@unformatted=$$(git ls-files '*.go' | xargs gofmt -l); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on: $$unformatted" >&2; exit 1; fi

GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: lint
lint: ## golangci-lint (fetched and built on first use, takes minutes)
	go run $(GOLANGCI) run ./...
	cd bench && go run $(GOLANGCI) run --config ../.golangci.yml ./...

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (default 30s); what fails stays in testdata/fuzz
	@grep -rlE '^func Fuzz' --include='*_test.go' . | grep -v node_modules | xargs -n1 dirname | sort -u | while read -r dir; do \
		for target in $$(grep -hoE '^func Fuzz[A-Za-z0-9]+' $$dir/*_test.go | sed 's/func //'); do \
			echo "== $$dir $$target"; go test $$dir -run '^$$' -fuzz "^$$target\$$" -fuzztime $${FUZZTIME:-30s} -fuzzminimizetime 2s; \
		done; done

# ROUNDS and SECONDS_EACH bound it, DIR is a folder on the disk that counts, WHERE is a word about
# the machine for the table of all runs, POSTGRES the DSN of a server (default: one of its own).
.PHONY: bench
bench: tools-postgres tools-nginx ## the audit log beside reverse_proxy, access logs, coraza and nginx, interleaved, into docs/performance.md; half an hour on a quiet machine
	cd bench && go build -o ../.cache/bin/bench . && PATH="$$PATH:/usr/sbin:$(CURDIR)/.cache/nginx/usr/sbin" ../.cache/bin/bench report --dir "$${DIR:-}" --rounds $${ROUNDS:-5} --seconds $${SECONDS_EACH:-3} --where "$${WHERE:-}" --postgres "$${POSTGRES:-own}"

.PHONY: bench-pieces
bench-pieces: ## the benchmarks of the pieces, with their allocations
	go test -run '^$$' -bench . -benchmem ./storage/... ./profile/... ./redact/... ./exchange/... ./severity/...

.PHONY: tools
tools: tools-postgres tools-pgbouncer tools-chromium
	@command -v node >/dev/null && command -v npm >/dev/null || { echo "Node.js 20 or newer with npm is missing: install it (Debian: apt-get install nodejs npm); the tests run a real Better Auth server" >&2; exit 1; }
	@command -v gcc >/dev/null || { echo "gcc is missing: install it (Debian: apt-get install gcc libc6-dev); the race detector needs it" >&2; exit 1; }

# Tests start a PostgreSQL of their own (storage/postgres/pgtest). Without one they are
# skipped, and the report says so.
.PHONY: tools-postgres
tools-postgres: ## PostgreSQL's programs for the tests: Debian's package, if root runs this and none is there
	@if compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || pg_config --bindir >/dev/null 2>&1 || [ -n "$${AUDIT_TEST_POSTGRES:-}" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing Debian's postgresql for the tests, without a server that runs"; \
		apt-get install -y --no-install-recommends postgresql-common && sed -i 's/^#*create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf && apt-get install -y --no-install-recommends postgresql \
			|| echo "PostgreSQL could not be installed: its tests are skipped" >&2; \
	else \
		echo "PostgreSQL is not on this machine: its tests are skipped (Debian: apt-get install postgresql; or AUDIT_TEST_POSTGRES=postgres://user:password@host/database)" >&2; \
	fi

# Unpacked, not installed: Debian's package would start a server. Any user may.
.PHONY: tools-pgbouncer
tools-pgbouncer: ## PgBouncer for the tests: the program out of Debian's package, if none is there
	@if [ -n "$$(PATH="$$PATH:/usr/sbin" command -v pgbouncer)" ] || [ -x .cache/pgbouncer/usr/sbin/pgbouncer ]; then exit 0; fi; \
	if command -v apt-get >/dev/null && command -v dpkg >/dev/null; then \
		echo "fetching Debian's pgbouncer for the tests"; mkdir -p .cache/pgbouncer; \
		(cd .cache/pgbouncer && apt-get download pgbouncer libc-ares2 libevent-2.1-7 && for package in *.deb; do dpkg -x "$$package" .; done && LD_LIBRARY_PATH="$$(echo "$$PWD"/usr/lib/*-linux-gnu)" usr/sbin/pgbouncer --version) \
			|| { rm -rf .cache/pgbouncer; echo "PgBouncer could not be fetched: its tests are skipped" >&2; }; \
	else \
		echo "PgBouncer is not on this machine: its tests are skipped" >&2; \
	fi

# The viewer is tested in a real browser. Without one its tests are skipped, and the
# report says so.
.PHONY: tools-chromium
tools-chromium: ## Chromium for the viewer's tests: Debian's package, if root runs this and none is there
	@for name in chromium chromium-browser google-chrome chrome; do if command -v $$name >/dev/null; then exit 0; fi; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing Debian's chromium for the viewer's tests"; \
		apt-get install -y --no-install-recommends chromium || echo "Chromium could not be installed: the viewer's tests are skipped" >&2; \
	else \
		echo "Chromium is not on this machine: the viewer's tests are skipped (Debian: apt-get install chromium)" >&2; \
	fi

# Unpacked, not installed: Debian's package would start a server. Any user may.
.PHONY: tools-nginx
tools-nginx: ## nginx for make bench: the program out of Debian's package, if none is there
	@if [ -n "$$(PATH="$$PATH:/usr/sbin" command -v nginx)" ] || [ -x .cache/nginx/usr/sbin/nginx ]; then exit 0; fi; \
	if command -v apt-get >/dev/null && command -v dpkg >/dev/null; then \
		echo "fetching Debian's nginx for the benchmark"; mkdir -p .cache/nginx; \
		(cd .cache/nginx && apt-get download nginx && dpkg -x nginx_*.deb . && usr/sbin/nginx -v) || { rm -rf .cache/nginx; echo "nginx could not be fetched: the benchmark leaves it out" >&2; }; \
	else \
		echo "nginx is not on this machine: the benchmark leaves it out" >&2; \
	fi

$(EXAMPLE)/node_modules/.installed: $(EXAMPLE)/package-lock.json
	cd $(EXAMPLE) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(CLIENT)/node_modules/.installed: $(CLIENT)/package-lock.json
	cd $(CLIENT) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(SERVERS)/authjs/node_modules/.installed: $(SERVERS)/authjs/package-lock.json
	cd $(SERVERS)/authjs && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

# Their scripts make the links that a package of npm cannot hold, and nothing else. They are for one
# architecture; elsewhere the tests that need them are skipped.
$(SERVERS)/postgres/node_modules/.installed: $(SERVERS)/postgres/package-lock.json
	cd $(SERVERS)/postgres && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@mkdir -p $(@D); for folder in $(SERVERS)/postgres/node_modules/postgres-*; do \
		if [ -d "$$folder" ]; then (cd "$$folder" && node scripts/hydrate-symlinks.js); fi; \
	done
	@touch $@

$(VIEWER)/node_modules/.installed: $(VIEWER)/package-lock.json
	cd $(VIEWER) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
