// Package audittest helps the tests of other projects to say what an audit log
// must hold.
//
//	audittest.Expect(t, store).Action("sign-in:email").Status("failed").User("").Once()
//
// The store is a memory.Store, or anything with its method Entries. In a test that
// runs Caddy itself, register a guest module that hands the store over:
//
//	var store = memory.New(0)
//
//	// Shared is the store of the test, as audit_log.stores.shared.
//	type Shared struct{ *memory.Store }
//
//	func (Shared) CaddyModule() caddy.ModuleInfo {
//		return caddy.ModuleInfo{ID: "audit_log.stores.shared", New: func() caddy.Module { return &Shared{store} }}
//	}
//
//	func (*Shared) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }
//
//	func init() { caddy.RegisterModule(Shared{}) }
//
// and use it with `store shared` in the global option audit_log.
package audittest
