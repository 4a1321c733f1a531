# Sees to it that user $1 and group $2 (may be empty) exist. What is there
# already, or numeric, stays as it is; what is missing is made, and it says so.
# It needs a POSIX shell, and uses useradd and groupadd where they are.
set -eu
name=$1 group=$2

is_id() { case $1 in '' | *[!0-9]*) return 1 ;; esac; }
have() { command -v "$1" >/dev/null 2>&1; }

# id_of FILE NAME prints the id of an entry of passwd or group; fails without one.
id_of() {
	[ -r "$1" ] || return 1
	while IFS=: read -r entry _ id _ || [ -n "$entry" ]; do
		if [ "$entry" = "$2" ]; then
			echo "$id"
			return 0
		fi
	done <"$1"
	return 1
}

# next_id prints an id that neither a user nor a group has.
next_id() {
	next=1000
	for file in /etc/passwd /etc/group; do
		[ -r "$file" ] || continue
		while IFS=: read -r _ _ id _ || [ -n "$id" ]; do
			case $id in '' | 0?* | *[!0-9]* | ??????*) continue ;; esac
			if [ "$id" -ge "$next" ] && [ "$id" -lt 60000 ]; then next=$((id + 1)); fi
		done <"$file"
	done
	echo "$next"
}

# append FILE LINE adds a line to a file whose last line may have no end.
append() {
	last=
	if [ -r "$1" ]; then while IFS= read -r last; do :; done <"$1"; fi
	[ -z "$last" ] || echo >>"$1"
	echo "$2" >>"$1"
}

made() { echo "warning: $1 did not exist and was created" >&2; }

if [ -n "$group" ] && ! is_id "$group" && ! id_of /etc/group "$group" >/dev/null; then
	if have groupadd; then
		groupadd -- "$group"
	else
		append /etc/group "$group:x:$(next_id):"
	fi
	made "group $group"
fi

if is_id "$name" || id_of /etc/passwd "$name" >/dev/null; then exit 0; fi

shell=/bin/sh
[ ! -x /bin/bash ] || shell=/bin/bash
primary=$group
if [ -z "$primary" ] && id_of /etc/group "$name" >/dev/null; then primary=$name; fi

if have useradd; then
	# useradd wants a group that is listed
	if is_id "$primary"; then primary=; fi
	useradd --create-home --shell "$shell" ${primary:+--gid} ${primary:+"$primary"} -- "$name"
else
	uid=$(next_id)
	if [ -z "$primary" ]; then
		append /etc/group "$name:x:$uid:"
		gid=$uid
	elif is_id "$primary"; then
		gid=$primary
	else
		gid=$(id_of /etc/group "$primary")
	fi
	append /etc/passwd "$name:x:$uid:$gid::/home/$name:$shell"
	if have mkdir && have chown; then
		mkdir -p "/home/$name"
		chown "$uid:$gid" "/home/$name"
	fi
fi
made "user $name"
