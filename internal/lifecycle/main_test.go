package lifecycle

import (
	"os"
	"testing"

	"meros/internal/netfilter"
)

func TestMain(m *testing.M) {
	if netfilter.IsChild(os.Args) {
		os.Exit(netfilter.Child())
	}
	os.Exit(m.Run())
}
