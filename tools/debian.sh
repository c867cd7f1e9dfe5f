#!/usr/bin/env bash
# Debian packages, each installed only when it is missing, command or package: tools/debian.sh curl wrk
set -euo pipefail
PATH="$PATH:/usr/sbin"

missing=()
for package in "$@"; do
  command -v "$package" >/dev/null || dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "These programs are needed and were not found: ${missing[*]}" >&2
  echo "Install them and try again (Debian, Ubuntu: sudo apt-get install --no-install-recommends ${missing[*]}; macOS: brew install ${missing[*]})." >&2
  exit 1
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}" </dev/null
