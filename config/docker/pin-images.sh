#!/bin/sh
# Prints lines for .env that pin each image of compose.yaml to the digest its tag has now, as the registry tells it:
#   config/docker/pin-images.sh >> .env
# Needs docker with buildx, and the registry. Look at what changed before you take over newer digests.
set -eu
cd "$(dirname "$0")/../.."
sed -n 's/.*${\([A-Z]*_IMAGE\):-\([^}]*\)}.*/\1 \2/p' compose.yaml | while read -r name image; do
    digest=$(docker buildx imagetools inspect "$image" --format '{{.Manifest.Digest}}')
    case $digest in
        sha256:????????????????????????????????????????????????????????????????) echo "$name=$image@$digest" ;;
        *) echo "no digest for $image: $digest" >&2; exit 1 ;;
    esac
done
