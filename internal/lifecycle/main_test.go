package lifecycle

import (
	"os"
	"testing"

	"meros/internal/netfilter"
	"meros/internal/sandbox"
)

func TestMain(m *testing.M) {
	if sandbox.IsInit(os.Args) {
		os.Exit(sandbox.Init(map[string]sandbox.Step{"count": sandbox.Bind(count)}))
	}
	if netfilter.IsChild(os.Args) {
		os.Exit(netfilter.Child())
	}
	os.Exit(m.Run())
}
