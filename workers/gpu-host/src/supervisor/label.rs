//! Which GPU a line of the common log is about.

use protocol::GpuId;
use serde_json::{Map, Value};

use super::lines::Line;

/// How much of a GPU's id stands before each of its lines, at least: `GPU-` and the first group of its UUID.
const LABEL_MIN: usize = 12;

/// How one child's lines are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LineFormat {
    /// With the beginning of the GPU's id in brackets.
    Text {
        /// That beginning.
        label: String,
    },
    /// One JSON object a line, with the field `gpu_id`.
    Json {
        /// The GPU.
        gpu_id: GpuId,
    },
}

/// The formats for children of these GPUs, in their order. Labels are all of one length, the shortest that tells the GPUs apart.
pub(super) fn formats(gpu_ids: &[&GpuId], json: bool) -> Vec<LineFormat> {
    if json {
        return gpu_ids.iter().map(|gpu_id| LineFormat::Json { gpu_id: (*gpu_id).clone() }).collect();
    }
    let longest = gpu_ids.iter().map(|gpu_id| gpu_id.as_str().len()).max().unwrap_or(LABEL_MIN);
    let labels = |length: usize| -> Vec<&str> {
        let ids = gpu_ids.iter().map(|gpu_id| gpu_id.as_str());
        ids.map(|id| &id[..length.min(id.len())]).collect()
    };
    let tells_apart = |length: &usize| {
        let mut labels = labels(*length);
        labels.sort_unstable();
        labels.windows(2).all(|pair| pair[0] != pair[1])
    };
    let length = (LABEL_MIN..longest).find(tells_apart).unwrap_or(longest);
    labels(length).into_iter().map(|label| LineFormat::Text { label: label.to_owned() }).collect()
}

impl LineFormat {
    /// The line as it is written, with its end.
    pub(super) fn write(&self, line: Line) -> Vec<u8> {
        let mut written = match self {
            Self::Text { label } => [format!("[{label}] ").as_bytes(), &line.bytes, mark(line.cut).as_bytes()].concat(),
            Self::Json { gpu_id } => match fields(&line) {
                Some(fields) if fields.contains_key("gpu_id") => line.bytes,
                Some(fields) => with_gpu_id(&line.bytes, gpu_id, fields.is_empty()),
                None => wrapped(&line, gpu_id),
            },
        };
        written.push(b'\n');
        written
    }
}

/// What stands at the end of a line that was cut.
fn mark(cut: u64) -> String {
    if cut == 0 { String::new() } else { format!(" … ({cut} bytes cut)") }
}

/// The fields of a line that is a JSON object.
fn fields(line: &Line) -> Option<Map<String, Value>> {
    if line.cut == 0 { serde_json::from_slice(&line.bytes).ok() } else { None }
}

/// The object with one field more, its first. The rest stays as it was written, digit by digit and in its order.
fn with_gpu_id(object: &[u8], gpu_id: &GpuId, is_empty: bool) -> Vec<u8> {
    let begin = object.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
    let (brace, rest) = object.split_at(begin);
    let comma = if is_empty { "" } else { "," };
    [brace, format!("\"gpu_id\":\"{gpu_id}\"{comma}").as_bytes(), rest].concat()
}

fn wrapped(line: &Line, gpu_id: &GpuId) -> Vec<u8> {
    let message = Value::String(format!("{}{}", String::from_utf8_lossy(&line.bytes), mark(line.cut)));
    format!(r#"{{"level":"WARN","gpu_id":"{gpu_id}","message":{message}}}"#).into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(names: &[&str]) -> Vec<GpuId> {
        names.iter().map(|name| GpuId::new(*name).expect("an id")).collect()
    }

    fn written(json: bool, line: &[u8], cut: u64) -> String {
        let gpu_id = GpuId::new("GPU-1a2b3c4d-5e6f-7081-92a3-b4c5d6e7f809").expect("an id");
        let format = formats(&[&gpu_id], json).remove(0);
        String::from_utf8(format.write(Line { bytes: line.to_vec(), cut })).expect("text")
    }

    fn labels(names: &[&str]) -> Vec<String> {
        let ids = ids(names);
        let formats = formats(&ids.iter().collect::<Vec<_>>(), false);
        let label = |format| match format {
            LineFormat::Text { label } => label,
            LineFormat::Json { .. } => unreachable!("text was asked for"),
        };
        formats.into_iter().map(label).collect()
    }

    #[test]
    fn a_label_is_the_shortest_beginning_that_tells_the_gpus_apart() {
        assert_eq!(labels(&["GPU-1a2b3c4d-5e6f", "GPU-ffffffff-5e6f"]), ["GPU-1a2b3c4d", "GPU-ffffffff"]);
        assert_eq!(labels(&["GPU-1a2b3c4d-5e6f", "GPU-1a2b3c4d-5e77"]), ["GPU-1a2b3c4d-5e6", "GPU-1a2b3c4d-5e7"]);
        assert_eq!(labels(&["gpu-0", "gpu-1"]), ["gpu-0", "gpu-1"]);
        assert_eq!(labels(&["GPU-1a2b3c4d", "GPU-1a2b3c4d-5e6f"]), ["GPU-1a2b3c4d", "GPU-1a2b3c4d-"]);
        assert_eq!(labels(&["twice-the-same-id", "twice-the-same-id"]), ["twice-the-same-id", "twice-the-same-id"]);
        assert_eq!(labels(&[]), [""; 0]);
    }

    #[test]
    fn a_line_of_text_begins_with_its_gpu() {
        assert_eq!(written(false, b"INFO works", 0), "[GPU-1a2b3c4d] INFO works\n");
        assert_eq!(written(false, b"", 0), "[GPU-1a2b3c4d] \n");
        assert_eq!(written(false, b"long", 7), "[GPU-1a2b3c4d] long … (7 bytes cut)\n");
    }

    #[test]
    fn an_object_gets_the_gpu_and_keeps_all_else() {
        let id = "\"gpu_id\":\"GPU-1a2b3c4d-5e6f-7081-92a3-b4c5d6e7f809\"";
        for (line, expected) in [
            (r#"{"z":1.10,"a":{"b":[1e3]}}"#, format!("{{{id},\"z\":1.10,\"a\":{{\"b\":[1e3]}}}}\n")),
            (r#"  {"z":1} "#, format!("  {{{id},\"z\":1}} \n")),
            ("{}", format!("{{{id}}}\n")),
            (r#"{ "nested": {"gpu_id": 1} }"#, format!("{{{id}, \"nested\": {{\"gpu_id\": 1}} }}\n")),
        ] {
            assert_eq!(written(true, line.as_bytes(), 0), expected);
            assert!(serde_json::from_str::<Map<String, Value>>(&expected).is_ok(), "{expected}");
        }
    }

    #[test]
    fn an_object_that_names_a_gpu_stays_as_it_is() {
        for line in [r#"{"gpu_id":"GPU-7","n":1}"#, r#"{"n":1,"gpu_id":null}"#] {
            assert_eq!(written(true, line.as_bytes(), 0), format!("{line}\n"));
        }
    }

    proptest! {
        #[test]
        fn whatever_a_child_writes_becomes_one_object_that_names_its_gpu(
            noise in prop::collection::vec(any::<u8>().prop_filter("the end of a line", |byte| *byte != b'\n'), 0..80),
            fields in prop::collection::hash_map("[a-c]{0,2}", any::<f64>().prop_filter("JSON has none", |number| number.is_finite()), 0..4),
            cut in prop_oneof![Just(0), any::<u64>()],
        ) {
            let object = serde_json::to_vec(&fields).expect("numbers");
            for line in [noise.clone(), object.clone(), [object, noise].concat()] {
                let written = written(true, &line, cut);
                prop_assert_eq!(written.matches('\n').count(), 1);
                let read: Map<String, Value> = serde_json::from_str(&written).expect("an object");
                prop_assert!(read.contains_key("gpu_id"), "{}", written);
            }
        }
    }

    #[test]
    fn a_line_that_is_no_object_becomes_one() {
        let lines: [(&[u8], u64, &str); 6] = [
            (b"thread panicked at \"x\"", 0, "thread panicked at \"x\""),
            (b"[1, 2]", 0, "[1, 2]"),
            (b"{\"cut\":", 0, "{\"cut\":"),
            (b"{\"a\":1} {\"b\":2}", 0, "{\"a\":1} {\"b\":2}"),
            (b"{}", 3, "{} … (3 bytes cut)"),
            (b"\xff\tx\r", 0, "\u{fffd}\tx\r"),
        ];
        for (line, cut, message) in lines {
            let written = written(true, line, cut);
            let object: Map<String, Value> = serde_json::from_str(&written).expect("an object");
            assert_eq!(object["message"], message);
            assert_eq!(object["level"], "WARN");
            assert_eq!(object["gpu_id"], "GPU-1a2b3c4d-5e6f-7081-92a3-b4c5d6e7f809");
            assert!(written.starts_with(r#"{"level":"WARN","gpu_id":"#), "{written}");
            assert_eq!(written.matches('\n').count(), 1);
        }
    }
}
