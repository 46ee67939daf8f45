package netfilter

import "testing"

func TestDeletions(t *testing.T) {
	const listing = `{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "ip", "name": "filter", "handle": 1}},
{"rule": {"family": "ip", "table": "filter", "chain": "LIBVIRT_INP", "handle": 20, "expr": [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "left0"}}, {"accept": null}]}},
{"rule": {"family": "ip", "table": "filter", "chain": "LIBVIRT_INP", "handle": 21, "expr": [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "other0"}}, {"accept": null}]}},
{"rule": {"family": "ip", "table": "filter", "chain": "INPUT", "handle": 22, "expr": [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "left0"}}, {"accept": null}]}},
{"rule": {"family": "ip6", "table": "libvirt_network", "chain": "guest_input", "handle": 23, "expr": [{"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "left0"}}, {"accept": null}]}},
{"rule": {"family": "ip", "table": "filter", "chain": "LIBVIRT_OUT", "handle": 24, "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 67}}, {"accept": null}]}}]}`
	got, err := deletions([]byte(listing), "left0")
	want := "delete rule ip filter LIBVIRT_INP handle 20\ndelete rule ip6 libvirt_network guest_input handle 23\n"
	if err != nil || got != want {
		t.Errorf("deletions = %q, %v, want %q", got, err, want)
	}
	if _, err := deletions([]byte(`{"nftables": `), "left0"); err == nil {
		t.Error("half a listing is read")
	}
}
