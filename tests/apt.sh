#!/usr/bin/env bash
# Installs the Debian packages that some tests need. Run as root; without them those tests skip.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y --no-install-recommends \
  chromium curl faad git python3-pip strace \
  swift-proxy swift-account swift-container swift-object python3-swift
