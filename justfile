# Short names for what is typed often; `just` lists them. Everything is built in release with the whole workspace: another
# profile or selection of packages would compile RocksDB again.

export CARGO_TARGET_DIR := env("CARGO_TARGET_DIR", home_directory() / ".cache/walkeep/target")

_default:
    @just --list

# Formatting, warnings, documentation: the quick half of `just test`
check:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --document-private-items

# Everything that a change must pass
test:
    scripts/test

# With the longer campaigns
full:
    scripts/test --full

# Some tests, by a part of their name
only name:
    cargo nextest run --release --workspace {{name}}

# Measurements of a real cluster beside their limits
bench *arguments:
    scripts/bench {{arguments}}

# From nothing to a restored table
quickstart *arguments:
    scripts/quickstart {{arguments}}

# Hostile bytes for the decoders, each target for so long
fuzz seconds="600":
    scripts/fuzz --seconds {{seconds}}

# Man pages and completions below a directory, as below /usr/share
pages directory:
    cargo build --release --workspace
    "$CARGO_TARGET_DIR/release/walkeep-pages" {{directory}}

# Formats everything
fmt:
    cargo fmt --all
