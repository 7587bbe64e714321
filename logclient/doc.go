// Package logclient reads an audit log through the operator surface of httpapi: lists,
// single entries, counts, the live stream and exports. It is what the command line is
// made of; it prints nothing, and knows neither Caddy nor any store.
package logclient
