//! Where a key lies in a Redis Cluster.

/// How many hash slots a cluster has.
const HASH_SLOTS: u16 = 16_384;

/// The hash slot of a key in a Redis Cluster, 0 to 16,383. Keys with the same hash tag, the first part between braces, share theirs.
#[must_use]
pub fn hash_slot(key: &str) -> u16 {
    crc16(hashed_part(key).as_bytes()) % HASH_SLOTS
}

/// What stands between the first `{` and the next `}`, or the whole key where nothing does.
fn hashed_part(key: &str) -> &str {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    tag.filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// CRC16/XMODEM. The client library's own comes only with its whole cluster client.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| shifted(crc)))
}

fn shifted(crc: u16) -> u16 {
    if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }

    #[test]
    fn a_key_without_a_tag_is_hashed_as_a_whole() {
        let known = [("123456789", 12_739), ("foo", 12_182), ("bar", 5_061), ("", 0), ("foo{}{bar}", 8_363)];
        for (key, expected) in known {
            assert_eq!(hash_slot(key), expected, "{key}");
        }
        assert_eq!(hashed_part("foo{bar"), "foo{bar");
        assert_eq!(hashed_part("foo}bar{"), "foo}bar{");
    }

    #[test]
    fn of_a_key_with_a_tag_only_the_first_tag_is_hashed() {
        assert_eq!(hash_slot("{user1000}.following"), hash_slot("{user1000}.followers"));
        assert_eq!(hash_slot("foo{{bar}}zap"), hash_slot("{bar"));
        assert_eq!(hash_slot("foo{bar}{zap}"), hash_slot("bar"));
    }
}
