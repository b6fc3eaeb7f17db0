//! Sizes and gaps of requests as 21 quantiles (0 %, 5 % … 100 %) of the Azure LLM inference traces 2023 (Microsoft, CC-BY 4.0):
//! `conv` has 19,366 requests of a chat service in 58 minutes, `code` 8,819 of a coding service.

use super::seed::Seed;

/// Quantiles from 0 % to 100 % in steps of 5 %.
pub type Quantiles = [u64; 21];

/// `ContextTokens` of `conv`.
pub const CHAT_INPUT_TOKENS: Quantiles = [
    2, 181, 207, 372, 387, 396, 403, 414, 703, 984, 1_020, 1_045, 1_071, 1_097, 1_130, 1_189, 1_315, 1_876, 2_734,
    4_083, 14_050,
];
/// `GeneratedTokens` of `conv`.
pub const CHAT_OUTPUT_TOKENS: Quantiles = [
    7, 41, 54, 67, 77, 85, 91, 96, 103, 113, 129, 151, 177, 217, 384, 395, 400, 411, 424, 451, 1_000,
];
/// Milliseconds between requests of `conv`.
pub const CHAT_GAP_MS: Quantiles = [
    0, 6, 16, 26, 36, 48, 60, 73, 87, 101, 118, 137, 158, 183, 213, 246, 288, 345, 420, 565, 4_314,
];
/// `ContextTokens` of `code`.
pub const CODE_INPUT_TOKENS: Quantiles = [
    3, 75, 147, 232, 386, 578, 770, 938, 1_075, 1_261, 1_469, 1_690, 1_909, 2_164, 2_433, 2_745, 3_192, 3_919, 5_186,
    7_302, 7_437,
];
/// `GeneratedTokens` of `code`.
pub const CODE_OUTPUT_TOKENS: Quantiles = [
    6, 6, 7, 7, 8, 9, 9, 10, 11, 12, 13, 14, 16, 18, 20, 24, 29, 39, 55, 90, 1_899,
];

/// One value, drawn between the quantiles.
pub fn draw(of: &Quantiles, seed: &mut Seed) -> u64 {
    let place = seed.below(20) as usize;
    let (low, high) = (of[place], of[place + 1]);
    low + seed.below(high - low + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_is_drawn_is_below_the_median() {
        let mut seed = Seed::new(3);
        let below = (0..10_000)
            .filter(|_| draw(&CHAT_INPUT_TOKENS, &mut seed) <= CHAT_INPUT_TOKENS[10])
            .count();
        assert!((4_800..5_300).contains(&below), "{below}");
    }
}
