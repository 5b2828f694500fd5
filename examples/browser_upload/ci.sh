#!/usr/bin/env bash
# Lets a headless Chromium use the page. Ends with a line `browser_upload: ok ...`.
set -euo pipefail
cd "$(dirname "$0")/../.."
if ! command -v chromium >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null
fi
npm ci --prefix examples/browser_upload --no-fund --no-audit --loglevel=error
cargo run --quiet --example browser_upload -- --check
