#!/bin/sh
# check_symbols.sh NM LIBTOKEN LIBCRYPTO: fails if LIBTOKEN defines a global symbol that BoringSSL's
# LIBCRYPTO defines, too, or needs one that is not weak; or if the check itself sees nothing.
set -eu
nm=$1 libtoken=$2 libcrypto=$3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$nm" --defined-only --extern-only --format=posix "$libcrypto" 2>/dev/null |
  awk 'NF >= 3 { print $1 }' | sort -u >"$folder/boringssl"
"$nm" --extern-only --format=posix "$libtoken" |
  awk 'NF >= 2 && $2 !~ /^[wv]$/ { print $1 }' | sort -u >"$folder/libtoken"

for name in HMAC SHA256_Update SHA256_TransformBlocks CRYPTO_memcmp OPENSSL_cleanse RAND_bytes; do
  grep -qx "$name" "$folder/boringssl" || { echo "$libcrypto does not define $name"; exit 1; }
done
grep -qx tessera_token_hmac "$folder/libtoken" || { echo "$libtoken has no wrapper"; exit 1; }

leaked=$(comm -12 "$folder/boringssl" "$folder/libtoken")
named=$(grep -E '^_?(HMAC|SHA[0-9]|CRYPTO_|OPENSSL_|RAND_|EVP_|BN_|AES_|ERR_|BORINGSSL_|sha256_)' \
  "$folder/libtoken" || true)
if [ -n "$leaked$named" ]; then
  echo "BoringSSL shows through $libtoken:"
  printf '%s\n' $leaked $named | sort -u
  exit 1
fi
echo "no global symbol of $(wc -l <"$folder/boringssl") in BoringSSL shows through $libtoken"
