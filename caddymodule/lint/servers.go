package lint

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// checkServers reports how clients could choose the address that entries show.
func (l *linter) checkServers() {
	servers := l.config.Apps.HTTP.Servers
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		s := servers[name]
		if slices.ContainsFunc(l.handlers, func(a *auditor) bool { return a.server == s }) {
			l.checkProxies(s, "apps/http/servers/"+name)
		}
	}
}

func (l *linter) checkProxies(s *server, path string) {
	f := Finding{Rule: ClientAddress, Path: path + "/trusted_proxies", where: where{server: s.Listen}}
	add := func(severity Severity, text, remedy string) {
		f.Severity, f.Text, f.Remedy = severity, text, remedy
		l.add(f)
	}
	if len(s.TrustedProxies) == 0 {
		if len(s.ClientHeaders) > 0 {
			f.Path = path + "/client_ip_headers"
			add(Low, "client_ip_headers does nothing without trusted_proxies: entries show the address of the proxy", "name the proxy in trusted_proxies, and use trusted_proxies_strict")
		}
		return
	}
	ranges := proxyRanges(s.TrustedProxies)
	if wide := slices.IndexFunc(ranges, everybody); wide >= 0 {
		add(High, fmt.Sprintf("trusted_proxies has %s: everybody counts as a proxy, and X-Forwarded-For says whatever a client likes", ranges[wide]), "name the addresses of your own proxies only")
	} else if s.Strict == 0 {
		severity := Medium
		if private(ranges) {
			severity = High
		}
		add(severity, "trusted_proxies without trusted_proxies_strict takes the left-most address of X-Forwarded-For, which is the one that clients write", "add trusted_proxies_strict, and name the addresses of your own proxies only")
	}
	if odd := slices.DeleteFunc(slices.Clone(s.ClientHeaders), func(h string) bool { return strings.EqualFold(h, "X-Forwarded-For") }); len(odd) > 0 {
		f.Path = path + "/client_ip_headers"
		add(Low, fmt.Sprintf("client_ip_headers believes %s: clients choose their address unless the proxy replaces it in every request", strings.Join(odd, ", ")), "see to it that the proxy sets each of these headers itself, or leave client_ip_headers out")
	}
}

// proxyRanges are those of a static source; other modules know theirs.
func proxyRanges(raw json.RawMessage) []string {
	var source struct {
		Source string   `json:"source"`
		Ranges []string `json:"ranges"`
	}
	if json.Unmarshal(raw, &source) != nil {
		return nil
	}
	return source.Ranges
}

// everybody says whether a range is so wide that it cannot be of proxies alone: less
// than eight bits are given.
func everybody(text string) bool {
	p, err := netip.ParsePrefix(text)
	return err == nil && p.Bits() < 8 && !p.Addr().IsPrivate()
}

// private says whether the private networks are among the ranges as a whole, where
// clients may be too.
func private(ranges []string) bool {
	return slices.Contains(ranges, "10.0.0.0/8") || slices.Contains(ranges, "192.168.0.0/16") || slices.Contains(ranges, "172.16.0.0/12")
}
