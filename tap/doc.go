// Package tap writes down what passes between clients and an auth server, so that a
// profile can be made from it, or sent to somebody who makes one. Proxy stands
// between the two and changes nothing that matters; Scrubber takes secrets out; File
// keeps the exchanges, one a line, in the format that package replay reads.
//
// Secrets are replaced so that the joins survive: the same token is the same
// placeholder in a cookie, a body, a URL and a header, and a JWT stays one. The key of
// the placeholders is random and is never stored.
package tap
