// Package storage defines what an audit entry is and what a store must do.
//
// The domain types (Entry, Query, Page) and the contract (Store and its
// optional interfaces) live here; each technology has a folder of its own
// (sqlite, memory), and storagetest is the suite that every store passes.
// Nothing here knows HTTP or Caddy.
package storage
