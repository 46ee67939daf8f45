#!/bin/sh
# dist-conf.sh prepares this host for meros: it installs the programs meros
# calls, makes libvirt answer, and mends the two traps known to stop guests
# (see "the host's state" below). It can be run again at any time: what is
# already there is left alone.
set -eu

usage() {
	cat <<'EOF'
Usage: ./dist-conf.sh [--check] [--with-xpra] [--with-kernel-build] [--for-tests] [--for-bench]

Installs what meros needs on this host and makes libvirt answer.
Knows Debian, Ubuntu, Fedora, Arch, Alpine, openSUSE and what derives from them.

  --check      change nothing; list what is missing and exit 1 if anything is
  --with-xpra  also install xpra, which "meros run" shows windows with
  --for-tests  also install what only "make test" calls
  --for-bench  also install what "make bench-build" compares with
  --with-kernel-build
               also install what "meros kernel-build" compiles with
  --help       print this text

Exit status: 0 ready, 1 something is missing or went wrong, 2 wrong call.
EOF
}

# ---- what each distribution calls the packages ------------------------------
# The only place where packages are named. One line per purpose; what stands
# before the colon is shown to the user. mmdebstrap is packaged by Debian and
# Ubuntu only: elsewhere meros uses debootstrap.

packages_debian() {
	case $machine in
	aarch64) qemu="qemu-system-arm" ;;
	*) qemu="qemu-system-x86 seabios" ;;
	esac
	cat <<EOF
bootstrap a chroot: mmdebstrap debootstrap debian-archive-keyring uidmap
pack a disk image: e2fsprogs fdisk qemu-utils
run guests: $qemu ipxe-qemu
manage guests and networks: libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients
connect guests: dnsmasq-base iproute2 iptables
filter packets: nftables
EOF
}

# Ubuntu's names are Debian's; mmdebstrap, debootstrap and
# debian-archive-keyring are in its "universe" component.

packages_fedora() {
	case $machine in
	aarch64) qemu="qemu-system-aarch64-core" ;;
	*) qemu="qemu-system-x86-core" ;;
	esac
	# storage-core holds the reader of backing files; without it libvirt refuses
	# every disk with "missing storage backend for 'file' storage".
	cat <<EOF
bootstrap a chroot: debootstrap debian-keyring shadow-utils
pack a disk image: e2fsprogs util-linux qemu-img
run guests: $qemu
manage guests and networks: libvirt-daemon-driver-qemu libvirt-daemon-driver-network libvirt-daemon-driver-nwfilter libvirt-daemon-driver-storage-core libvirt-client
connect guests: dnsmasq iproute iptables-nft
filter packets: nftables
EOF
}

packages_arch() {
	case $machine in
	aarch64) qemu="qemu-system-aarch64" ;;
	*) qemu="qemu-system-x86" ;;
	esac
	cat <<EOF
bootstrap a chroot: debootstrap debian-archive-keyring shadow
pack a disk image: e2fsprogs util-linux qemu-img
run guests: $qemu
manage guests and networks: libvirt
connect guests: dnsmasq iproute2 iptables
filter packets: nftables
EOF
}

packages_alpine() {
	case $machine in
	aarch64) qemu="qemu-system-aarch64" ;;
	*) qemu="qemu-system-x86_64 seabios" ;;
	esac
	# Busybox' own unshare, mount and tar lack what chroot building needs.
	cat <<EOF
bootstrap a chroot: debootstrap debian-archive-keyring perl gnupg tar util-linux-misc mount shadow-uidmap
pack a disk image: e2fsprogs e2fsprogs-extra sfdisk qemu-img
run guests: $qemu
manage guests and networks: libvirt-daemon libvirt-qemu libvirt-common-drivers libvirt-client
connect guests: dnsmasq iproute2 iptables
filter packets: nftables
EOF
}

packages_opensuse() {
	case $machine in
	aarch64) qemu="qemu-arm" ;;
	*) qemu="qemu-x86 qemu-ipxe qemu-seabios" ;;
	esac
	# qemu-img is asked for by its file: it moved from one package to another.
	# distribution-gpg-keys carries Debian's archive keys.
	cat <<EOF
bootstrap a chroot: debootstrap distribution-gpg-keys shadow
pack a disk image: e2fsprogs util-linux /usr/bin/qemu-img
run guests: $qemu
manage guests and networks: libvirt-daemon-driver-qemu libvirt-daemon-driver-network libvirt-daemon-driver-nwfilter libvirt-daemon-driver-storage-core libvirt-client
connect guests: dnsmasq iproute2 iptables
filter packets: nftables
EOF
}

# Debian's xpra serves nobody until python3-pil is there, and frames no window
# without python3-gi-cairo.
packages_xpra() {
	case $distro in
	debian) echo "show windows: xpra python3-pil python3-gi-cairo" ;;
	*) echo "show windows: xpra" ;;
	esac
}

# The distribution's kernel is what "meros kernel-build --source distro" takes.
packages_kernel() {
	case $distro in
	debian) echo "compile a kernel: build-essential bc bison flex libelf-dev libssl-dev perl ccache xz-utils lz4" && echo "take the distribution's kernel: linux-source" ;;
	fedora) echo "compile a kernel: make gcc bc bison flex elfutils-libelf-devel openssl-devel perl-interpreter ccache xz lz4 diffutils" ;;
	arch) echo "compile a kernel: make gcc bc bison flex libelf openssl perl ccache xz lz4" ;;
	alpine) echo "compile a kernel: make gcc musl-dev linux-headers bc bison flex elfutils-dev openssl-dev perl ccache xz lz4 findutils diffutils" ;;
	opensuse) echo "compile a kernel: make gcc bc bison flex libelf-devel libopenssl-devel perl ccache xz lz4" && echo "take the distribution's kernel: kernel-source" ;;
	esac
}

# A screen that is none, eyes and fingers for it, and the programs that sessions
# are compared with.
packages_tests() {
	busybox=busybox # one of several packages, which exclude each other
	! command -v busybox >/dev/null 2>&1 || busybox=
	case $distro in
	debian) echo "test windows: xvfb xdotool xclip weston waypipe x11-utils imagemagick" && echo "test sessions: openssh-client openssh-server ssh-audit rsync fish zsh tcsh mksh $busybox" && echo "sign a test archive: gpg gpg-agent dpkg" ;;
	fedora | opensuse) echo "test windows: /usr/bin/Xvfb xdotool xclip weston waypipe /usr/bin/xwininfo ImageMagick" && echo "test sessions: openssh-clients openssh-server rsync fish zsh tcsh mksh $busybox" ;;
	arch) echo "test windows: xorg-server-xvfb xdotool xclip weston waypipe xorg-xwininfo imagemagick" && echo "test sessions: openssh rsync fish zsh tcsh $busybox" ;;
	alpine) echo "test windows: xvfb xdotool xclip weston waypipe xwininfo imagemagick" && echo "test sessions: openssh-client openssh-server rsync fish zsh tcsh mksh" ;;
	esac
	# A private network of it; a daemon of the host's own, which some distributions start, is not needed.
	echo "test Tor: tor"
}

# The tools that builds are compared with, where the distribution has them.
packages_bench() {
	case $distro in
	debian) echo "compare builds: mmdebstrap mkosi vmdb2 debos libguestfs-tools" ;;
	*) echo "compare builds: mkosi guestfs-tools" ;;
	esac
}

packages() {
	"packages_$distro"
	if [ "$with_xpra" = yes ]; then packages_xpra; fi
	if [ "$with_kernel_build" = yes ]; then packages_kernel; fi
	if [ "$for_tests" = yes ]; then packages_tests; fi
	if [ "$for_bench" = yes ]; then packages_bench; fi
}

# The programs themselves, for a distribution this script does not know.
programs="debootstrap mke2fs sfdisk qemu-img qemu-system-$(uname -m) libvirtd virsh dnsmasq nft iptables ip newuidmap"

# ---- the package managers ---------------------------------------------------

installed() {
	case $distro in
	debian) dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed ;;
	fedora | opensuse) rpm -q --whatprovides "$1" >/dev/null 2>&1 ;;
	arch) pacman -T "$1" >/dev/null 2>&1 ;;
	alpine) apk info -e "$1" >/dev/null 2>&1 ;;
	esac
}

install_command() {
	case $distro in
	debian) echo "apt-get -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 -y --no-install-recommends install" ;;
	fedora) echo "dnf -y --setopt=install_weak_deps=False install" ;;
	arch) echo "pacman -S --needed --noconfirm" ;;
	alpine) echo "apk add" ;;
	opensuse) echo "zypper --non-interactive install --no-recommends" ;;
	esac
}

# Lists go stale; a failure here is told by the installation that follows.
refresh_lists() {
	case $distro in
	debian)
		for pause in 0 5 15; do # another apt may hold the lists right after boot
			sleep "$pause"
			apt-get -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 -q update && return 0
		done
		;;
	arch) pacman -Sy --noconfirm || true ;;
	alpine) apk update || true ;;
	esac
	return 0
}

# ---- talk -------------------------------------------------------------------

say() { echo "dist-conf: $*"; }

die() {
	echo "dist-conf: error: $1" >&2
	shift
	for line in "$@"; do echo "dist-conf: hint: $line" >&2; done
	exit 1
}

# lacking tells one fault that --check found.
lacking() {
	say "missing: $*"
	faults=$((faults + 1))
}

# ---- which distribution -----------------------------------------------------

find_distro() {
	file=${MEROS_OS_RELEASE:-/etc/os-release}
	[ -r "$file" ] || return 1
	ids=$(sed -n 's/^ID=//p; s/^ID_LIKE=//p' "$file" | tr -d "\"'" | tr '\n' ' ')
	for id in $ids; do
		case $id in
		debian | ubuntu) distro=debian ;;
		fedora) distro=fedora ;;
		arch) distro=arch ;;
		alpine) distro=alpine ;;
		opensuse* | suse) distro=opensuse ;;
		*) continue ;;
		esac
		return 0
	done
	return 1
}

unknown_distro() {
	say "this distribution is not known here; meros needs these programs:"
	for program in $programs; do
		if command -v "$program" >/dev/null 2>&1; then
			echo "  $program"
		else
			echo "  $program (missing)"
		fi
	done
	die "unknown distribution" \
		"install the missing ones with your package manager, start libvirt, then run: meros doctor"
}

# ---- packages ---------------------------------------------------------------

# missing_packages prints "name<TAB>purpose" for each package that is not there.
missing_packages() {
	packages | while IFS=: read -r purpose names; do
		for name in $names; do
			installed "$name" || printf '%s\t%s\n' "$name" "$purpose"
		done
	done
}

check_packages() {
	list=$(missing_packages)
	[ -n "$list" ] || return 0
	tab=$(printf '\t')
	while IFS=$tab read -r name purpose; do
		lacking "package $name (to $purpose)"
	done <<EOF
$list
EOF
	say "to install: $(install_command) $(echo "$list" | cut -f1 | tr '\n' ' ' | sed 's/ $//')"
}

# The package of a server starts it, now and at every boot. Nobody asked for that who
# wants to run the tests, which start one of their own on a port of their own.
before_sshd() {
	policy=/usr/sbin/policy-rc.d
	[ "$distro" = debian ] && [ ! -e "$policy" ] || { policy=; return 0; }
	printf '#!/bin/sh\n[ "$1" != ssh ] && [ "$1" != ssh.service ] && [ "$1" != ssh.socket ] || exit 101\n' >"$policy"
	chmod 755 "$policy"
}

after_sshd() {
	[ -z "$policy" ] || rm -f "$policy"
	[ -d /run/systemd/system ] || return 0
	for unit in ssh.service ssh.socket sshd.service; do systemctl -q disable "$unit" 2>/dev/null || true; done
}

install_packages() {
	names=$(missing_packages | cut -f1)
	[ -n "$names" ] || return 0
	# shellcheck disable=SC2086 # a list of words
	set -- $names
	say "installing $# packages, which may take some minutes: $*"
	log=$(mktemp)
	export DEBIAN_FRONTEND=noninteractive
	refresh_lists </dev/null >"$log" 2>&1
	sshd=no
	case " $names " in *openssh-server*) sshd=yes && before_sshd ;; esac
	installed=yes
	# shellcheck disable=SC2046 # a command line of words
	$(install_command) "$@" </dev/null >>"$log" 2>&1 || installed=no
	[ "$sshd" = no ] || after_sshd
	if [ "$installed" = no ]; then
		tail -n 20 "$log" >&2
		die "the packages could not be installed; the full output is in $log" \
			"mend what it names, then run this script again"
	fi
	left=$(missing_packages | cut -f1 | tr '\n' ' ')
	[ -z "$left" ] || die "installed, yet not there: $left" "see $log"
	rm -f "$log"
	say "installed $# packages"
}

# mke2fs 1.47 is the first that packs a tree as meros does.
check_mke2fs() {
	command -v mke2fs >/dev/null 2>&1 || return 0 # told by its package
	version=$(mke2fs -V 2>&1 | sed -n '1s/^mke2fs \([0-9]*\.[0-9]*\).*/\1/p')
	major=${version%%.*}
	minor=${version#*.}
	if [ "$((${major:-0} * 1000 + ${minor:-0}))" -lt 1047 ]; then
		lacking "mke2fs 1.47 or newer (this is ${version:-of no known version}): needs a newer release of this distribution"
	fi
}

# ---- the host's state -------------------------------------------------------

# libvirt's networks need this folder; Debian's package leaves making it to systemd.
lease_dir=/var/lib/libvirt/dnsmasq

make_lease_dir() {
	[ ! -d "$lease_dir" ] || return 0
	if [ "$check" = yes ]; then
		lacking "the folder $lease_dir (libvirt's networks need it)"
		return 0
	fi
	mkdir -p "$lease_dir"
	say "made $lease_dir"
}

# qemu_user prints whom libvirt runs guests as, or nothing while libvirt is not there.
qemu_user() {
	set_user=$(sed -n 's/^[[:space:]]*user[[:space:]]*=[[:space:]]*"\([^"]*\)".*/\1/p' /etc/libvirt/qemu.conf 2>/dev/null | tail -n 1)
	for user in $set_user libvirt-qemu qemu; do
		if id "${user#+}" >/dev/null 2>&1; then
			echo "${user#+}"
			return 0
		fi
	done
}

# kvm_open_to holds if the user named may read and write /dev/kvm by its mode.
kvm_open_to() {
	[ "$1" != root ] || return 0
	mode=$(stat -c %a /dev/kvm)
	[ "$((0$mode & 06))" -ne 6 ] || return 0
	[ "$((0$mode & 060))" -eq "$((060))" ] || return 1
	case " $(id -G "$1") " in
	*" $(stat -c %g /dev/kvm) "*) return 0 ;;
	esac
	return 1
}

# While libvirt's qemu user cannot open /dev/kvm, libvirt probes QEMU anew at
# every start of a guest: 76 s instead of 0.6 s.
open_kvm() {
	if [ ! -c /dev/kvm ]; then
		say "note: there is no /dev/kvm, so guests will run emulated, slowly"
		return 0
	fi
	user=$(qemu_user)
	if [ -z "$user" ] || kvm_open_to "$user"; then return 0; fi
	if [ "$check" = yes ]; then
		lacking "access to /dev/kvm for libvirt's user $user (every guest would start slowly)"
		return 0
	fi
	if group_exists kvm; then
		chgrp kvm /dev/kvm
		chmod 0660 /dev/kvm
	fi
	kvm_open_to "$user" || die "libvirt's user $user cannot open /dev/kvm" \
		"make $user a member of the group that owns /dev/kvm: usermod -aG kvm $user"
	say "gave /dev/kvm to group kvm, mode 0660, so that libvirt's user $user can open it"
}

group_exists() { grep -q "^$1:" /etc/group; }

# ---- libvirt ----------------------------------------------------------------

# answers holds if libvirt and its network driver can be talked to.
answers() {
	command -v virsh >/dev/null 2>&1 || return 1
	timeout 20 virsh -q -c qemu:///system version </dev/null >/dev/null 2>&1 &&
		timeout 20 virsh -q -c qemu:///system net-list --name </dev/null >/dev/null 2>&1
}

init_system() {
	if [ -d /run/systemd/system ]; then
		echo systemd
	elif [ -d /run/openrc ] && command -v rc-service >/dev/null 2>&1; then
		echo openrc
	else
		echo none
	fi
}

has_unit() { systemctl cat "$1" >/dev/null 2>&1; }
unit_enabled() { systemctl is-enabled --quiet "$1" 2>/dev/null; }

# systemd_units prints what to enable: libvirtd, or the modular daemons' sockets
# where libvirtd is not there or the distribution has turned to them.
systemd_units() {
	if has_unit libvirtd.service && ! unit_enabled virtqemud.socket; then
		echo libvirtd.service
		return 0
	fi
	for daemon in virtlogd virtqemud virtnetworkd virtnwfilterd virtstoraged; do
		if has_unit "$daemon.socket"; then echo "$daemon.socket"; fi
	done
}

# enabled holds if libvirt is started at boot, or nothing here starts anything at boot.
enabled() {
	case $(init_system) in
	systemd) unit_enabled libvirtd.service || unit_enabled libvirtd.socket || unit_enabled virtqemud.socket || unit_enabled virtqemud.service ;;
	openrc) rc-update show default 2>/dev/null | grep -q '^ *libvirtd ' ;;
	none) true ;;
	esac
}

start_systemd() {
	units=$(systemd_units | tr '\n' ' ')
	[ -n "$units" ] || die "systemd knows no unit of libvirt" "look at: systemctl list-unit-files 'virt*' 'libvirt*'"
	# shellcheck disable=SC2086 # a list of words
	systemctl enable --now $units >/dev/null 2>&1 ||
		die "systemd could not start $units" "look at: systemctl status $units"
	say "enabled and started $units"
}

start_openrc() {
	rc-update -q add libvirtd default
	rc-service -q libvirtd start || die "OpenRC could not start libvirtd" "look at /var/log/messages and rc-service libvirtd status"
	say "added libvirtd to runlevel default and started it"
}

daemon_runs() {
	[ -r "/run/$1.pid" ] && [ "$(cat "/proc/$(cat "/run/$1.pid")/comm" 2>/dev/null)" = "$1" ]
}

# Where nothing manages services there is no D-Bus either, so libvirt's default,
# to ask polkit who may connect to a socket that is open to all, lets in root
# alone. We say who may connect by the socket's own group and mode instead. Any
# such choice already made in libvirtd.conf is left as it is.
libvirtd_conf() {
	base=/etc/libvirt/libvirtd.conf
	if grep -Eqs '^[[:space:]]*(unix_sock_(group|r[ow]_perms)|auth_unix_r[ow])[[:space:]]*=' "$base"; then
		echo "$base"
		return 0
	fi
	conf=/run/libvirt/meros-libvirtd.conf
	mkdir -p /run/libvirt
	{
		cat "$base" 2>/dev/null || true
		echo
		if group_exists libvirt; then
			echo 'unix_sock_group = "libvirt"'
			printf 'unix_sock_%s_perms = "0770"\n' ro rw
		else
			printf 'unix_sock_%s_perms = "0700"\n' ro rw
		fi
		printf 'auth_unix_%s = "none"\n' ro rw
	} >"$conf.partial"
	chmod 0600 "$conf.partial"
	mv "$conf.partial" "$conf"
	echo "$conf"
}

start_alone() {
	if ! daemon_runs virtlogd; then
		virtlogd -d || die "virtlogd did not start" "run it in the foreground to see why: virtlogd"
		say "started virtlogd"
	fi
	if ! daemon_runs libvirtd; then
		conf=$(libvirtd_conf)
		libvirtd -d -f "$conf" || die "libvirtd did not start" "run it in the foreground to see why: libvirtd -f $conf"
		say "started libvirtd with $conf (only root and group libvirt may connect, unless it says otherwise)"
	fi
}

check_libvirt() {
	if answers; then
		enabled || lacking "libvirt's start at boot (it answers now)"
	elif [ "$(id -u)" -ne 0 ] && { [ -S /run/libvirt/libvirt-sock ] || [ -S /run/libvirt/virtqemud-sock ]; }; then
		say "note: libvirt is there but does not talk to $(id -un), so whether it works could not be checked"
	else
		lacking "an answer from libvirt (qemu:///system)"
	fi
}

start_libvirt() {
	if answers && enabled; then return 0; fi
	case $(init_system) in
	systemd) start_systemd ;;
	openrc) start_openrc ;;
	none) start_alone ;;
	esac
	wait_limit=60 # seconds; libvirt asks QEMU what it can do on its first start
	deadline=$(($(date +%s) + wait_limit))
	until answers; do
		[ "$(date +%s)" -lt "$deadline" ] || die "libvirt did not answer within $wait_limit s" \
			"ask it yourself: virsh -c qemu:///system version" \
			"its log: /var/log/libvirt, or with systemd: journalctl -u libvirtd -u virtqemud -u virtnetworkd"
		sleep 1
	done
	say "libvirt answers at qemu:///system"
}

# ---- the person -------------------------------------------------------------

# invoker prints the user whom meros is for, or nothing for root.
invoker() {
	if [ "$(id -u)" -ne 0 ]; then
		id -un
	else
		name=${SUDO_USER:-${DOAS_USER:-}}
		[ "$name" = root ] || echo "$name"
	fi
}

join_group() { # user group
	if command -v usermod >/dev/null 2>&1; then
		usermod -aG "$2" "$1"
	else
		addgroup "$1" "$2" >/dev/null
	fi
}

join_groups() {
	user=$(invoker)
	if [ -z "$user" ] || ! id "$user" >/dev/null 2>&1; then return 0; fi
	for group in libvirt kvm; do
		group_exists "$group" || continue
		case " $(id -nG "$user") " in *" $group "*) continue ;; esac
		if [ "$check" = yes ]; then
			lacking "$user in group $group"
		else
			join_group "$user" "$group"
			say "added $user to group $group, which counts from the next login on"
		fi
	done
}

# ---- main -------------------------------------------------------------------

check=no
with_xpra=no
with_kernel_build=no
for_tests=no
for_bench=no
faults=0
distro=
machine=$(uname -m)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # not on every user's PATH
export PATH LC_ALL=C

for arg in "$@"; do
	case $arg in
	--check) check=yes ;;
	--with-xpra) with_xpra=yes ;;
	--with-kernel-build) with_kernel_build=yes ;;
	--for-tests) for_tests=yes ;;
	--for-bench) for_bench=yes ;;
	-h | --help)
		usage
		exit 0
		;;
	*)
		usage >&2
		exit 2
		;;
	esac
done

find_distro || unknown_distro

if [ "$check" = yes ]; then
	check_packages
	check_mke2fs
	make_lease_dir
	open_kvm
	check_libvirt
	join_groups
	[ "$faults" -eq 0 ] || die "not ready: $faults missing, listed above" "to mend it: sudo ./dist-conf.sh"
	say "this host has what meros needs"
	exit 0
fi

[ "$(id -u)" -eq 0 ] || die "installing and starting services needs root" \
	"run: sudo ./dist-conf.sh" "or only look: ./dist-conf.sh --check"

install_packages
check_mke2fs
make_lease_dir
open_kvm
start_libvirt
join_groups
[ "$faults" -eq 0 ] || exit 1
say "this host has what meros needs"
