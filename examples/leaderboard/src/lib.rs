//! Leaderboards: the best score of each player, the top of a board, and ranks. A season of a week
//! begins without scores.

use kvasm_guest::kv::SetOptions;
use kvasm_guest::typed::{Counter, Map};
use kvasm_guest::{Error, Json};
use std::time::Duration;

/// How long a score is kept: at least to the end of its season.
const KEPT_FOR: Duration = Duration::from_secs(14 * 24 * 3600);

kvasm_guest::collections! {
    /// The number of the season.
    NUMBERS: Counter<String> = "numbers";
    /// Points by season, board and player.
    BEST: Map<(i64, String, String), i32> = "best";
    /// An index by points, which are negated, so that the best sort first.
    RANKED: Map<(i64, String, i64, String), ()> = "ranked";
}

/// Takes board, player and points. Keeps the player's best, and returns it.
#[kvasm_guest::function(transaction)]
fn submit(Json((board, player, points)): Json<(String, String, i32)>) -> Result<Json<i32>, Error> {
    let season = NUMBERS.get("season")?;
    if let Some(best) = BEST.get((season, &board, &player))? {
        if best >= points {
            return Ok(Json(best));
        }
        RANKED.delete((season, &board, -i64::from(best), &player))?;
    }
    let options = SetOptions::new().ttl(KEPT_FOR);
    BEST.set_with((season, &board, &player), &points, options)?;
    RANKED.set_with((season, &board, -i64::from(points), &player), &(), options)?;
    Ok(Json(points))
}

/// Takes a board and a number. Returns as many players with their points, the best first.
#[kvasm_guest::function]
fn top(Json((board, count)): Json<(String, usize)>) -> Result<Json<Vec<(String, i64)>>, Error> {
    let mut top = Vec::new();
    let ranked = RANKED.list().prefix((NUMBERS.get("season")?, &board));
    for entry in ranked.limit(count).entries() {
        let ((_, _, points, player), _) = entry?;
        top.push((player, -points));
    }
    Ok(Json(top))
}

/// Takes board and player. Returns the player's rank, from 1; null without a score.
#[kvasm_guest::function]
fn rank(Json((board, player)): Json<(String, String)>) -> Result<Json<Option<usize>>, Error> {
    let season = NUMBERS.get("season")?;
    let Some(best) = BEST.get((season, &board, &player))? else {
        return Ok(Json(None));
    };
    let better = RANKED.list().prefix((season, &board));
    let better = better.end_parts((season, &board, -i64::from(best)));
    Ok(Json(Some(better.count()? + 1)))
}

/// Begins a season. The scores of earlier ones expire.
#[kvasm_guest::cron("0 0 * * 1")]
fn reset() -> Result<(), Error> {
    NUMBERS.increment("season", 1)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_guest::testing::{CallError, Harness};

    type Tested = Result<(), CallError>;

    fn play(h: &mut Harness, scores: &[(&str, i32)]) -> Tested {
        for (player, points) in scores {
            h.call(submit, Json(("chess", player, points)))?;
        }
        Ok(())
    }

    /// The number of scores, which is that of the index.
    fn kept() -> Result<usize, Error> {
        assert_eq!(BEST.list().count()?, RANKED.list().count()?);
        BEST.list().count()
    }

    #[kvasm_guest::test]
    fn best_score_counts(h: &mut Harness) -> Tested {
        play(h, &[("ada", 9), ("bob", 30), ("ada", 100), ("cy", -5)])?;
        assert_eq!(h.call(submit, Json(("chess", "ada", 7)))?, "100");
        let all = r#"[["ada",100],["bob",30],["cy",-5]]"#;
        assert_eq!(h.call(top, r#"["chess",10]"#)?, all);
        assert_eq!(h.call(top, r#"["chess",1]"#)?, r#"[["ada",100]]"#);
        assert_eq!(h.call(top, r#"["chess 2",10]"#)?, "[]");
        assert_eq!(kept()?, 3);
        Ok(())
    }

    #[kvasm_guest::test]
    fn equal_scores_have_one_rank(h: &mut Harness) -> Tested {
        play(h, &[("ada", 30), ("bob", 30), ("cy", 5), ("di", i32::MIN)])?;
        let ranks = ["ada", "bob", "cy", "di", "eve"].map(|player| {
            let rank = h.call(rank, Json(("chess", player)));
            rank.unwrap().json::<Option<usize>>()
        });
        assert_eq!(ranks, [Some(1), Some(1), Some(3), Some(4), None]);
        Ok(())
    }

    #[kvasm_guest::test]
    fn scores_are_reset_on_monday_and_expire(h: &mut Harness) -> Tested {
        play(h, &[("ada", 9)])?;
        // The clock begins on a Thursday.
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(h.advance(3 * day).assert_ok(), 0);
        assert_eq!(h.advance(day).assert_ok(), 1);
        assert_eq!(h.call(top, r#"["chess",10]"#)?, "[]");
        play(h, &[("ada", 3)])?;
        assert_eq!(h.call(top, r#"["chess",10]"#)?, r#"[["ada",3]]"#);
        assert_eq!(kept()?, 2);
        h.advance(11 * day).assert_ok();
        assert_eq!(kept()?, 1);
        Ok(())
    }

    #[kvasm_guest::test]
    fn conflict_leaves_the_index_right(h: &mut Harness) -> Tested {
        play(h, &[("ada", 1)])?;
        h.conflict_next();
        play(h, &[("ada", 2)])?;
        // Each of the two runs has written three entries.
        assert_eq!((h.last_cost().entries_written, kept()?), (6, 1));
        Ok(())
    }
}
