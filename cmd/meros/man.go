package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func newManCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write the man pages to a folder",
		Long: `Write a man page for each command to a folder, which is made if it is not there.
Their date is that of SOURCE_DATE_EPOCH, else today's.
`,
		Hidden: true, // for make install and packagers
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			return writePages(cmd.Root(), args[0])
		},
	}
}

// writePages writes the pages of a command and of those below it.
func writePages(cmd *cobra.Command, dir string) error {
	for _, sub := range cmd.Commands() {
		if !sub.IsAvailableCommand() || sub.Name() == "help" {
			continue
		}
		if err := writePages(sub, dir); err != nil {
			return err
		}
	}
	page, err := manPage(cmd)
	if err != nil {
		return fmt.Errorf("write man pages: %w", err)
	}
	name := strings.ReplaceAll(cmd.CommandPath(), " ", "-") + ".1"
	return os.WriteFile(filepath.Join(dir, name), page, 0o644)
}

// manPage is cobra's page of a command with the sections added that cobra knows
// nothing of.
func manPage(cmd *cobra.Command) ([]byte, error) {
	cmd.DisableAutoGenTag = true
	cmd.InitDefaultVersionFlag()
	var b bytes.Buffer
	if err := doc.GenMan(cmd, &doc.GenManHeader{Section: "1", Source: "meros " + version, Manual: "meros"}, &b); err != nil {
		return nil, err
	}
	const last = ".SH SEE ALSO\n"
	before, after, _ := strings.Cut(b.String(), last)
	more, see := exitSection, after
	if !cmd.HasParent() {
		more += mainSections
		see = strings.TrimRight(after, "\n") + ", \\fBmeros-recipe(5)\\fP\n"
	}
	return []byte(before + more + last + see), nil
}

const exitSection = `.SH EXIT STATUS
.TP
\fB0\fP
done
.TP
\fB1\fP
failed
.TP
\fB2\fP
wrong call
.TP
\fB3\fP
faulty recipe
.TP
\fB4\fP
the host is not ready: a program, a permission or libvirt is missing
.TP
\fB5\fP
no such family or target
.TP
\fB130\fP
interrupted
.TP
\fB255\fP
the guest was not reached, where the status is else the guest's own
`

const mainSections = `.SH ENVIRONMENT
.TP
\fBMEROS_ROOT\fP
the folder that holds conf/ and data/, unless \fB--root\fP names one; without either it is the nearest folder with
conf/target from the current one upwards, else \fB$XDG_DATA_HOME\fP/meros
.TP
\fBMEROS_ACCEL\fP
what runs the guests' code, unless \fB--accel\fP says: kvm, tcg or auto
.TP
\fBMEROS_LIBVIRT_URI\fP
the libvirt to talk to: qemu:///system unless given
.SH FILES
.TP
\fIconf/target/FAMILY/\fP
the recipe of a family, see \fBmeros-recipe(5)\fP
.TP
\fIdata/images/FULLID.qcow2\fP
a target's disk image; its kernel lies beside it
.TP
\fIdata/ssh_keys/FULLID\fP, \fIFULLID.host.pub\fP
the key that opens sessions on a target, and the host key that they pin
.TP
\fIdata/mos-shared/FULLID/\fP
what was pulled from a target
.TP
\fIdata/log/\fP
logs, see \fBmeros-log(1)\fP
.TP
\fIdata/build/\fP
what makes the next build fast; may be deleted at any time
`
