//! The keys in Redis: how many of each sort, and what they take.

use std::collections::BTreeMap;

use redis::aio::MultiplexedConnection;

use crate::{Fault, servers::PREFIX};

/// Keys of one step of the scan.
const STEP: usize = 500;
/// Keys of a sort whose size is asked for; the others are taken to be as large.
const MEASURED: usize = 50;

/// The keys of one sort.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sort {
    pub(crate) count: u64,
    pub(crate) kib: f64,
}

/// All keys, by sort.
pub(crate) async fn sorts(connection: &mut MultiplexedConnection) -> Result<BTreeMap<String, Sort>, Fault> {
    let mut keys: BTreeMap<String, (u64, Vec<Vec<u8>>)> = BTreeMap::new();
    let mut cursor = 0_u64;
    loop {
        let (next, found): (u64, Vec<Vec<u8>>) = redis::cmd("SCAN").arg(cursor).arg("COUNT").arg(STEP).query_async(connection).await?;
        for key in found {
            let (count, measured) = keys.entry(sort_of(&String::from_utf8_lossy(&key))).or_default();
            *count += 1;
            if measured.len() < MEASURED {
                measured.push(key);
            }
        }
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    let mut sorts = BTreeMap::new();
    for (sort, (count, measured)) in keys {
        let kib = kib_of(connection, &measured).await? * count as f64 / measured.len().max(1) as f64;
        sorts.insert(sort, Sort { count, kib });
    }
    Ok(sorts)
}

/// What these take together.
async fn kib_of(connection: &mut MultiplexedConnection, keys: &[Vec<u8>]) -> Result<f64, Fault> {
    let mut pipe = redis::pipe();
    for key in keys {
        pipe.cmd("MEMORY").arg("USAGE").arg(key);
    }
    // A key may be gone by now.
    let bytes: Vec<Option<u64>> = pipe.query_async(connection).await?;
    Ok(bytes.into_iter().flatten().sum::<u64>() as f64 / 1_024.0)
}

/// The sort of a key: what is before and after the name that it has for one task, group, GPU or tensor.
fn sort_of(key: &str) -> String {
    let Some(rest) = key.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix(':')) else { return "foreign".to_owned() };
    let Some((tag, after)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else { return rest.to_owned() };
    let after: Vec<&str> = after.split(':').filter(|part| !part.is_empty()).take(2).collect();
    let named = |what: &str| std::iter::once(what).chain(after.first().copied()).collect::<Vec<_>>().join(":");
    match tag.split_once(':') {
        Some((what @ ("task" | "group"), _)) => named(what),
        _ => std::iter::once("table").chain(after.iter().copied()).collect::<Vec<_>>().join(":"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_sort_are_counted_together_whatever_they_are_named_after() {
        for (key, sort) in [
            ("soak:{task:soak-17}", "task"),
            ("soak:{task:soak-17}:reply", "task:reply"),
            ("soak:{task:soak-17}:slice:0..4", "task:slice"),
            ("soak:{group:group-5}", "group"),
            ("soak:{group:group-5}:members", "group:members"),
            ("soak:store:{groups}:made", "store:{groups}:made"),
            ("soak:store:history:15m", "store:history:15m"),
            ("soak:{default}:pool", "table:pool"),
            ("soak:{default}:slots:row:w0-1", "table:slots:row"),
            ("soak:{nvidia}:slots:rows", "table:slots:rows"),
            ("another", "foreign"),
        ] {
            assert_eq!(sort_of(key), sort, "{key}");
        }
    }
}
