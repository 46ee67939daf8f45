package lint

import (
	"slices"
	"strings"
	"testing"
)

func TestColoursThatLookAlike(t *testing.T) {
	build := func(ip, border string) string {
		return `<target><details username="u"` + border + `/><network network_addr="10.62.9.1" ip_addr="10.62.9.` + ip + `"/></target>`
	}
	f := write(t, t.TempDir(), "fam", map[string]string{
		"build/a.xml": build("2", ` border="red"`), "build/b.xml": build("3", ` border="#f01010"`), "build/c.xml": build("4", ` border="#00ff00"`),
		"build/d.xml": build("5", ` border="lime"`), "build/e.xml": build("6", ` border="blue"`), "build/f.xml": `<target><details username="u" border="blue"/></target>`,
	})
	found, err := Family(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, g := range found {
		if strings.Contains(g.What, "trust colour") {
			got = append(got, g.File+": "+g.What)
		}
	}
	want := []string{"build/b.xml: its trust colour #f01010 is nearly that of a, red", "build/d.xml: its trust colour lime is nearly that of c, #00ff00"}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}
