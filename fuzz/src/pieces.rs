//! Cuts an input as a network might.

/// The pieces of `bytes`, of lengths that `seed` decides: all at once for 0, single bytes for 1, else a mixture.
pub fn cut(mut bytes: &[u8], seed: u8) -> Vec<&[u8]> {
    let mut state = u64::from(seed);
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        // A linear congruential generator; its upper bits are mixed well enough.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let length = match seed {
            0 => bytes.len(),
            1 => 1,
            // Now and then a long one, so that whole messages arrive together.
            _ if state >> 60 == 0 => 4096,
            _ => 1 + (state >> 58) as usize,
        };
        let (piece, rest) = bytes.split_at(length.min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}
