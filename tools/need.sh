#!/bin/sh
# Installs the Debian packages that a make target needs, saying which and why.
# usage: tools/need.sh demo|test
set -eu

packages() {
	case $1 in
	demo) cat <<-'LIST' ;;
		mmdebstrap makes the base "minimal" from the machine's Debian mirror
		LIST
	test) cat <<-'LIST' ;;
		mmdebstrap makes the base "minimal" from the machine's Debian mirror
		postgresql runs the store's suite on a server of its own
		erofs-utils checks written images with a second program
		busybox-static is the smallest root file system for tests
		bash-completion completes words as a person's shell does
		npm fetches and runs the unmodified E2B SDK
		gcc compiles the race detector's runtime
		libc6-dev likewise
		LIST
	*) echo "usage: $0 demo|test" >&2; exit 2 ;;
	esac
}

missing=$(packages "$1" | while read -r name why; do
	# npm may come from elsewhere, with a newer Node.js
	command -v "$name" >/dev/null || dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'install ok installed' || echo "$name $why"
done)
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
	echo "missing, and only root on Debian can install them here:" >&2
	echo "$missing" | sed 's/ / - /;s/^/  /' >&2
	exit 1
fi
echo "installing:"
echo "$missing" | sed 's/ / - /;s/^/  /'
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
echo "$missing" | cut -d' ' -f1 | xargs apt-get install -y -qq --no-install-recommends >/dev/null
