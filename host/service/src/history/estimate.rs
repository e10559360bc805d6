//! Quantiles of durations, estimated from the buckets of a histogram.

use kvasm_metrics::DURATION_BOUNDS_US;

/// Returns an estimate of a quantile from 0 to 1 in microseconds: within its bucket, the durations
/// are assumed to be spread evenly. Of the last bucket, which has no upper bound, it is the lower
/// one. `None` without a duration.
pub fn quantile_us(durations: &[u64], quantile: f64) -> Option<u64> {
    let total: u64 = durations.iter().sum();
    if total == 0 {
        return None;
    }
    let rank = (quantile.clamp(0.0, 1.0) * total as f64).max(1.0);
    let (mut before, mut lower) = (0.0, 0.0);
    for (place, count) in durations.iter().enumerate() {
        let count = *count as f64;
        let Some(upper) = DURATION_BOUNDS_US.get(place).map(|bound| *bound as f64) else {
            break;
        };
        if before + count >= rank {
            return Some((lower + (upper - lower) * (rank - before) / count) as u64);
        }
        before += count;
        lower = upper;
    }
    Some(lower as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_their_bucket() {
        let mut durations = [0_u64; 16];
        assert_eq!(quantile_us(&durations, 0.5), None);
        // 10 from 2.5 to 5 ms, 90 up to 10 ms.
        (durations[4], durations[5]) = (10, 90);
        assert_eq!(quantile_us(&durations, 0.1), Some(5_000));
        assert_eq!(quantile_us(&durations, 0.55), Some(7_500));
        assert_eq!(quantile_us(&durations, 1.0), Some(10_000));
        assert_eq!(quantile_us(&durations, 0.0), Some(2_750));
        // Beyond all bounds.
        durations[15] = 1_000;
        assert_eq!(quantile_us(&durations, 0.99), Some(10_000_000));
        let mut one = [0_u64; 16];
        one[0] = 1;
        assert_eq!(quantile_us(&one, 0.5), Some(250));
    }

    /// The order of quantiles, and that of the exact ones, whatever the durations are.
    #[test]
    fn estimates_are_at_most_one_bucket_off() {
        let mut seed = 42_u64;
        for _ in 0..200 {
            let mut exact: Vec<u64> = (0..500)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    1 << (seed >> 59).min(23)
                })
                .collect();
            exact.sort_unstable();
            let mut durations = [0; 16];
            for us in &exact {
                durations[DURATION_BOUNDS_US.partition_point(|bound| us > bound)] += 1;
            }
            let mut last = 0;
            for percent in [1, 50, 90, 99] {
                let found = quantile_us(&durations, f64::from(percent) / 100.0).unwrap();
                let exact = exact[(500 * percent as usize).div_ceil(100) - 1];
                let place = DURATION_BOUNDS_US.partition_point(|bound| exact > *bound);
                let lower = place.checked_sub(1).map_or(0, |at| DURATION_BOUNDS_US[at]);
                let upper = DURATION_BOUNDS_US[place];
                assert!(lower <= found && found <= upper, "{exact}: {found}");
                assert!(found >= last);
                last = found;
            }
        }
    }
}
