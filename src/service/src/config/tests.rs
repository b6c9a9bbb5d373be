use std::collections::BTreeSet;

use protocol::{
    Strategy,
    config::{HandlerSection, SecretUrl},
};

use super::*;

/// Sources whose file has this text, and the folder that holds it.
pub(super) struct Written {
    pub(super) sources: Sources,
    folder: PathBuf,
}

impl Written {
    pub(super) fn file(text: &str) -> Self {
        Self::bytes(text.as_bytes())
    }

    pub(super) fn bytes(bytes: &[u8]) -> Self {
        let folder = std::env::temp_dir().join(format!("gpufleet-config-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join(DEFAULT_FILE), bytes).expect("a file");
        Self { sources: Sources { folder: folder.clone(), ..Sources::default() }, folder }
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.sources.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn flag(mut self, text: &str) -> Self {
        self.sources.overrides.push(text.to_owned());
        self
    }

    fn load(&self) -> Configuration {
        load(&self.sources).expect("a valid configuration")
    }

    /// The mistakes, one a line, without the folder.
    fn mistakes(&self) -> Vec<String> {
        let errors = load(&self.sources).expect_err("mistakes");
        let text = errors.to_string().replace(&format!("{}/", self.folder.display()), "");
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn variables(pairs: &[(&str, &str)]) -> Sources {
    let environment = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    // A folder that does not exist has no gpufleet.yaml.
    Sources { folder: PathBuf::from("/nonexistent"), environment, ..Sources::default() }
}

fn overrides(texts: &[&str]) -> Sources {
    Sources { overrides: texts.iter().map(|text| (*text).to_owned()).collect(), ..variables(&[]) }
}

fn only_mistake(sources: &Sources) -> String {
    let errors = load(sources).expect_err("a mistake");
    assert_eq!(errors.mistakes.len(), 1, "{errors}");
    errors.to_string()
}

fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config/gpufleet.yaml")
}

#[test]
fn the_reference_has_every_key_and_its_default() {
    let sources = Sources { file: Some(reference()), ..variables(&[]) };
    let loaded = sources.load().expect("the reference is valid");
    assert_eq!(loaded.configuration, Configuration::default());
    let written: BTreeSet<String> = loaded.origins.into_keys().collect();
    let known: BTreeSet<String> = KnownKeys::read().names().into_iter().collect();
    assert_eq!(written, known);
}

#[test]
fn without_any_source_everything_is_default() {
    assert_eq!(load(&variables(&[])).expect("valid"), Configuration::default());
    assert_eq!(Written::file("# nothing\n").load(), Configuration::default());
    assert_eq!(Written::file("worker:\n  # lease_ms: 1\nlog:\n").load(), Configuration::default(), "sections may be empty");
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let file = "worker:\n  lease_ms: 7000\n  offer_ms: 1000\n  drain_grace_ms: 1\n";
    let written = Written::file(file)
        .variable("GPUFLEET__WORKER__LEASE_MS", "8000")
        .variable("GPUFLEET__WORKER__OFFER_MS", "2000")
        .flag("worker.lease_ms=9000");
    let worker = written.load().worker;
    assert_eq!((worker.lease_ms, worker.offer_ms, worker.drain_grace_ms, worker.in_hand_patience_ms), (9_000, 2_000, 1, 100));
}

#[test]
fn the_file_is_the_named_one_then_the_variables_then_the_one_at_hand() {
    let (named, variable) = (Written::file("log: {level: error}"), Written::file("log: {level: warn}"));
    let at_hand = Written::file("log: {level: debug}");
    let level = |file: Option<&Written>, environment: Option<&Written>| {
        let path = |written: &Written| written.folder.join(DEFAULT_FILE);
        let mut sources = at_hand.sources.clone();
        sources.file = file.map(path);
        if let Some(written) = environment {
            sources.environment.insert(FILE_VARIABLE.to_owned(), path(written).display().to_string());
        }
        load(&sources).expect("valid").log.level
    };
    assert_eq!(level(Some(&named), Some(&variable)), "error");
    assert_eq!(level(None, Some(&variable)), "warn");
    assert_eq!(level(None, None), "debug");
}

#[test]
fn a_named_file_that_is_missing_is_a_mistake() {
    let sources = Sources { file: Some(PathBuf::from("/nonexistent/fleet.yaml")), ..variables(&[]) };
    assert!(only_mistake(&sources).starts_with("/nonexistent/fleet.yaml: cannot be read: "));
}

#[test]
fn text_is_read_as_the_type_of_its_key() {
    type Case = (&'static str, fn(&Configuration) -> bool);
    let cases: [Case; 11] = [
        ("amqp.prefix=123", |c| c.amqp.prefix == "123"),
        ("amqp.url=amqp://guest:guest@localhost:5672/%2f", |c| c.amqp.url == Some(SecretUrl::new("amqp://guest:guest@localhost:5672/%2f"))),
        ("amqp.url=", |c| c.amqp.url.is_none()),
        ("worker.metrics_listen=[::1]:9100", |c| c.worker.metrics_listen.as_deref() == Some("[::1]:9100")),
        ("amqp.queue_length_max=5", |c| c.amqp.queue_length_max == Some(5)),
        ("amqp.queue_length_max=null", |c| c.amqp.queue_length_max.is_none()),
        ("log.json=true", |c| c.log.json),
        ("gpu.multi_gpu.memory_threshold=1", |c| c.gpu.multi_gpu.memory_threshold == 1.0),
        ("gpu.multi_gpu.strategies=least_loaded, round_robin", |c| {
            c.gpu.multi_gpu.strategies == [Strategy::LeastLoaded, Strategy::RoundRobin]
        }),
        ("gpu.multi_gpu.strategies=[least_loaded]", |c| c.gpu.multi_gpu.strategies == [Strategy::LeastLoaded]),
        ("gpu.multi_gpu.strategies=least_loaded", |c| c.gpu.multi_gpu.strategies == [Strategy::LeastLoaded]),
    ];
    for (text, holds) in cases {
        let configuration = load(&overrides(&[text])).unwrap_or_else(|errors| panic!("{text}: {errors}"));
        assert!(holds(&configuration), "{text}: {configuration:?}");
    }
}

#[test]
fn the_short_variables_set_the_urls_and_the_long_ones_win() {
    let sources = variables(&[
        ("GPUFLEET_AMQP_URL", "amqp://short"),
        ("GPUFLEET_REDIS_URL", "redis://short"),
        ("GPUFLEET__REDIS__URL", "redis://long"),
    ]);
    let configuration = load(&sources).expect("valid");
    let urls = [configuration.amqp.url, configuration.redis.url].map(|url| url.expect("set").reveal().to_owned());
    assert_eq!(urls, ["amqp://short", "redis://long"]);
}

#[test]
fn variables_that_a_platform_sets_are_left_alone_and_slips_are_not() {
    let platform = [("GPUFLEET_GATEWAY_PORT_8080_TCP", "tcp://10.0.0.1:8080"), ("GPUFLEET_VERSION", "1"), ("PATH", "/bin")];
    assert!(load(&variables(&platform)).is_ok());
    let mistake = only_mistake(&variables(&[("GPUFLEET_AMPQ_URL", "amqp://h")]));
    assert_eq!(mistake, "variable GPUFLEET_AMPQ_URL: unknown variable; did you mean GPUFLEET_AMQP_URL?");
}

#[test]
fn a_variable_of_our_name_that_nobody_reads_is_warned_about() {
    let cases = [
        ("GPUFLEET_REDIS", Some("did you mean GPUFLEET_REDIS_URL?")),
        ("GPUFLEET_AMQP", Some("did you mean GPUFLEET_AMQP_URL?")),
        ("GPUFLEET_CONFIG_FILE", Some("did you mean GPUFLEET_CONFIG?")),
        ("GPUFLEET_WORKER_LEASE_MS", Some("did you mean GPUFLEET__WORKER__LEASE_MS?")),
        (
            "GPUFLEET_COLOUR",
            Some(
                "known are GPUFLEET_AMQP_URL, GPUFLEET_REDIS_URL, GPUFLEET_CONFIG, GPUFLEET_URL, GPUFLEET_PYTHON and GPUFLEET__SECTION__KEY",
            ),
        ),
        ("GPUFLEET_URL", None),
        ("GPUFLEET_PYTHON", None),
        ("GPUFLEET_SUPERVISED", None),
        ("GPUFLEET_GATEWAY_SERVICE_HOST", None),
        ("GPUFLEET_GATEWAY_PORT_8080_TCP", None),
        ("GPUFLEETS", None),
    ];
    for (name, advice) in cases {
        let loaded = variables(&[(name, "3")]).load().expect("a warning is no mistake");
        let expected: Vec<String> = advice.iter().map(|advice| format!("variable {name} has no effect: {advice}")).collect();
        assert_eq!(loaded.warnings, expected);
    }
}

#[test]
fn a_mistake_in_a_flag_of_its_own_is_told_by_the_flags_name() {
    let flags = vec![FlagSetting { flag: "--redis-url", key: "redis.url", value: "http://h".to_owned() }];
    let mistake = only_mistake(&Sources { flags, ..overrides(&["redis.url=redis://h"]) });
    assert!(mistake.starts_with("redis.url (--redis-url): is \"http://h\", which has the scheme"), "{mistake}");
}

#[test]
fn all_mistakes_of_all_sources_are_reported_at_once() {
    let file = "worker:\n  lese_ms: 100\n  lease_ms: 10\nlog:\n  level: inof\nredis: here\n";
    let written =
        Written::file(file).variable("GPUFLEET__AMQP__QUEUE_TYPE", "quorun").flag("gateway.listen=8080").flag("predict.max_length");
    let mistakes = written.mistakes();
    let expected = [
        "redis (gpufleet.yaml:6): is a section, not a value; its keys are prefix, response_timeout_ms, store_url, url",
        "worker.lease_ms (gpufleet.yaml:3): is 10, and must be between 300 and 600000 (default: 6000)",
        "worker.lese_ms (gpufleet.yaml:2): unknown key; did you mean worker.lease_ms?",
        "amqp.queue_type (variable GPUFLEET__AMQP__QUEUE_TYPE): unknown variant `quorun`, expected `classic` or `quorum`",
        "predict.max_length (--set predict.max_length): has no value; write key=value",
        "gateway.listen (--set gateway.listen): is \"8080\", and must be host:port",
        "log.level (gpufleet.yaml:5): \"inof\" is not a level; use one of off, error",
    ];
    for line in expected {
        assert!(mistakes.iter().any(|mistake| mistake.starts_with(line)), "no line begins with\n{line}\nin\n{}", mistakes.join("\n"));
    }
    assert_eq!(mistakes.len(), expected.len(), "{}", mistakes.join("\n"));
}

#[test]
fn an_unknown_key_is_answered_with_what_was_meant() {
    let cases = [
        ("wroker.lease_ms=1", "did you mean worker.lease_ms?"),
        ("lease_ms=1", "did you mean worker.lease_ms?"),
        ("gpu.max_concurrent_tasks_per_gpu=1", "did you mean gpu.multi_gpu.max_concurrent_tasks_per_gpu?"),
        ("store.zzz=1", "known here are group_members_max, groups_max, outcome_retention_ms"),
        ("zzz=1", "known here are amqp, batch, data, gateway, gpu, handlers, journal, kernel"),
        ("log=info", "is a section, not a value; its keys are json, level"),
        ("worker.lease_ms.x=1", "did you mean worker.lease_ms?"),
    ];
    for (text, expected) in cases {
        let mistake = only_mistake(&overrides(&[text]));
        assert!(mistake.contains(expected), "{text}: {mistake}");
    }
}

#[test]
fn a_value_of_the_wrong_type_or_range_is_answered_with_what_is_wanted() {
    let cases = [
        ("worker.lease_ms=soon", "invalid type: string \"soon\", expected u64; give a whole number (default: 6000)"),
        ("worker.lease_ms=-1", "expected u64; give a whole number"),
        ("log.json=perhaps", "give true or false (default: false)"),
        ("gpu.multi_gpu.default_strategy=fastest", "unknown variant `fastest`, expected one of"),
        ("gpu.multi_gpu.strategies=fastest", "unknown variant `fastest`"),
        ("gpu.multi_gpu.memory_threshold=1.5", "is 1.5, and must be between 0 and 1 (default: 0.9)"),
        ("gpu.multi_gpu.min_batch_size_per_gpu=0", "is 0, and must be at least 1"),
        ("simulated.gpus=5000", "is 5000, and must be between 0 and 1024"),
        ("worker.pool=two words", "pool must be 1 to 64 letters"),
        ("amqp.queue_length_max=0", "is 0, and must be at least 1"),
        ("store.reply_retention_ms=1", "is 1, and must be at least 1000"),
        ("store.groups_max=0", "is 0, and must be between 1 and 1000000 (default: 10000)"),
        ("journal.steps_max=10000001", "is 10000001, and must be between 0 and 10000000 (default: 200000)"),
        ("journal.age_max_ms=1000", "is 1000, and must be at least 60000"),
        ("scaling.workers_max=0", "is 0, and must be at least 1"),
        ("memory.bodies_mb=0", "is 0, and must be between 1 and 65536 (default: 256)"),
    ];
    for (text, expected) in cases {
        let mistake = only_mistake(&overrides(&[text]));
        assert!(mistake.contains(expected), "{text}: {mistake}");
    }
}

#[test]
fn values_that_do_not_go_together_are_mistakes() {
    let cases: [(&[&str], &str); 13] = [
        (
            &["worker.lease_ms=1000", "worker.offer_ms=1001"],
            "worker.offer_ms (--set worker.offer_ms): is 1001, and must not exceed worker.lease_ms (1000)",
        ),
        (&["worker.offer_ms=6001"], "worker.lease_ms (6000)"),
        (&["redis.url=redis://h", "redis.response_timeout_ms=6000"], "must be below worker.lease_ms (6000)"),
        (&["redis.store_url=redis://h"], "is set without redis.url"),
        (&["store.reply_retention_ms=86400001"], "must not exceed store.outcome_retention_ms"),
        (&["scaling.workers_min=1001"], "must not exceed scaling.workers_max (1000)"),
        (&["predict.max_length_max=100"], "predict.max_length (default): is 128, and must not exceed predict.max_length_max (100)"),
        (&["gpu.multi_gpu.strategies=[]"], "is empty; name at least one strategy"),
        (&["gpu.multi_gpu.strategies=[round_robin]"], "gpu.multi_gpu.default_strategy (default): is not among"),
        (&["gpu.multi_gpu.memory_threshold=0"], "no GPU would ever take a task"),
        (&["amqp.prefix=a b"], "must be 1 to 64 letters"),
        (&["redis.prefix={x}"], "must be 1 to 64 letters"),
        (&["simulated.id_prefix=a/b"], "makes no valid GPU id"),
    ];
    for (texts, expected) in cases {
        let mistake = only_mistake(&overrides(texts));
        assert!(mistake.contains(expected), "{texts:?}: {mistake}");
    }
}

#[test]
fn a_bad_url_is_a_mistake_that_hides_its_password() {
    let cases = [
        ("amqp.url=broker", "is not a URL; begin with amqp://, amqps://"),
        ("amqp.url=http://u:s3cret@broker", "has the scheme \"http\"; begin with amqp://"),
        ("redis.url=rediss://:s3cret@h", "begin with redis://"),
        ("amqp.url=amqp://u:s3cret@:5672/", "names no host"),
        ("amqp.url=amqp://u:s3cret@h:x/", "has a port that is not a number"),
        ("redis.url=unix://socket", "names no socket"),
        ("redis.url=rediss://:s3cret@h", "does not speak it to Redis yet"),
        ("traces.otlp_url=https://u:s3cret@h:4318", "asks for TLS: spans are not sent over it yet; begin with http://"),
        ("traces.otlp_url=h:4318", "is not a URL; begin with http://"),
        ("amqp.url=amqp://u:s3cret@h:5672/", "write /%2f for the default one, or leave the slash out"),
        ("amqp.url=amqp://u:s3cret@h/?heartbeat=5", "write /%2f"),
    ];
    for (text, expected) in cases {
        let mistake = only_mistake(&overrides(&[text]));
        assert!(mistake.contains(expected) && !mistake.contains("s3cret"), "{text}: {mistake}");
    }
    for good in
        ["amqp.url=amqps://u:p@[::1]:5671/v", "amqp.url=amqp://h/%2f", "redis.url=redis://:p@h:6379/1", "redis.url=unix:///run/r.sock"]
    {
        assert!(load(&overrides(&[good])).is_ok(), "{good}");
    }
}

#[test]
fn an_address_needs_a_host_and_a_port() {
    for bad in ["", "8080", ":8080", "localhost", "localhost:99999", "::1:80"] {
        let mistake = only_mistake(&overrides(&[&format!("gateway.listen={bad}")]));
        assert!(mistake.contains("must be host:port"), "{bad}: {mistake}");
    }
    for good in ["0.0.0.0:0", "localhost:80", "[::]:8080"] {
        assert!(load(&overrides(&[&format!("gateway.listen={good}")])).is_ok(), "{good}");
    }
}

#[test]
fn a_file_that_is_not_a_configuration_is_one_mistake() {
    let cases = [
        ("worker: [", "is not valid YAML: "),
        ("worker:\n  pool: a\n  pool: b\n", "is not valid YAML: "),
        ("- a\n", "is not a configuration"),
        ("1: x\n", "unknown key"),
    ];
    for (text, expected) in cases {
        let mistakes = Written::file(text).mistakes();
        assert!(mistakes.len() == 1 && mistakes[0].contains(expected), "{text:?}: {mistakes:?}");
    }
}

#[test]
fn a_mapping_is_one_value_wherever_it_comes_from() {
    let kind = |name: &str| protocol::Kind::new(name).expect("valid");
    let written = Written::file("batch:\n  wait_ms:\n    simulate: 5\n    predict: 20\n  largest: {matmul: 8}\n");
    let loaded = written.sources.load().expect("valid");
    let batch = &loaded.configuration.batch;
    assert_eq!((batch.wait_ms[&kind("simulate")], batch.wait_ms[&kind("predict")], batch.largest[&kind("matmul")]), (5, 20, 8));
    assert!(loaded.to_yaml().contains("wait_ms: {\"predict\":20,\"simulate\":5}"), "{}", loaded.to_yaml());
    assert_eq!(Written::file(&loaded.to_yaml()).load(), loaded.configuration);
    let replaced = written.variable("GPUFLEET__BATCH__WAIT_MS", "{echo: 1}").flag("batch.largest={}").load().batch;
    assert_eq!((replaced.wait_ms.len(), replaced.wait_ms[&kind("echo")], replaced.largest.len()), (1, 1, 0), "as a whole");
}

#[test]
fn a_mapping_with_a_wrong_name_or_value_is_refused() {
    let cases = [
        ("batch.wait_ms=5", "give a mapping of names to values (default: {})"),
        ("batch.wait_ms={simulate: soon}", "expected u64"),
        ("batch.wait_ms={Two Words: 5}", "must be a kind"),
        ("batch.wait_ms={simulate: 60001}", "lets simulate wait for 60001 ms; at most 60000 ms are accepted"),
        ("batch.largest={simulate: 0}", "lets no payload of simulate run"),
        ("batch.wait_ms.simulate=5", "set the mapping as a whole: batch.wait_ms={simulate: …}"),
    ];
    for (text, expected) in cases {
        let mistake = only_mistake(&overrides(&[text]));
        assert!(mistake.contains(expected), "{text}: {mistake}");
    }
}

#[test]
fn what_is_printed_loads_again_and_hides_passwords() {
    let written =
        Written::file("worker:\n  lease_ms: 7000\n").flag("amqp.url=amqp://fleet:s3cret@h:5672/v").variable("GPUFLEET__LOG__JSON", "true");
    let loaded = written.sources.load().expect("valid");
    let printed = loaded.to_yaml();
    assert!(!printed.contains("s3cret") && printed.contains("amqp://fleet:***@h:5672/v"), "{printed}");
    for (value, origin) in
        [("lease_ms: 7000", "gpufleet.yaml:2"), ("json: true", "# variable GPUFLEET__LOG__JSON"), ("url: ", "# --set amqp.url")]
    {
        assert!(printed.lines().any(|line| line.contains(value) && line.ends_with(origin)), "{value} from {origin} in\n{printed}");
    }
    let mut again = Written::file(&printed).load();
    again.amqp.url.clone_from(&loaded.configuration.amqp.url);
    assert_eq!(again, loaded.configuration);
}

#[test]
fn how_the_log_is_wanted_is_known_although_other_keys_are_wrong() {
    let written = Written::file("log:\n  json: true\nworker:\n  leese_ms: 1\n").flag("log.level=debug").flag("worker.lease_ms=soon");
    let log = written.sources.log();
    assert_eq!((log.json, log.level.as_str()), (true, "debug"));
    assert_eq!(written.mistakes().len(), 2);
    let wrong = Written::file("log:\n  json: perhaps\n").sources.log();
    assert!(!wrong.json, "what cannot be told is as by default");
}

#[test]
fn handlers_are_one_list_wherever_they_come_from_and_flags_add_to_it() {
    let mut written = Written::file(
        "handlers:\n  - file: embed.py\n    environment: {HF_TOKEN: s3cret}\n  - command: [./rank, --fast]\n    processes: 2\n",
    );
    written.sources.handlers = vec![HandlerSection { file: Some("more.py".into()), ..HandlerSection::default() }];
    let loaded = written.sources.load().expect("valid");
    let names: Vec<String> = loaded.configuration.handlers.iter().map(HandlerSection::name).collect();
    assert_eq!(names, ["embed", "rank", "more"]);
    assert_eq!((loaded.configuration.handlers[1].processes, loaded.configuration.handlers[0].start_timeout_ms), (2, 300_000));
    let printed = loaded.to_yaml();
    assert!(printed.contains("HF_TOKEN") && !printed.contains("s3cret"), "{printed}");
    assert!(!serde_json::to_string(&loaded.redacted()).expect("JSON").contains("s3cret"));
    assert_eq!(Written::file(&printed).load().handlers.len(), 3);
    // A variable or `--set` gives the list as a whole.
    let replaced = Written::file("handlers: [{file: embed.py}]\n").variable("GPUFLEET__HANDLERS", "[{command: [rank]}]").load().handlers;
    assert_eq!(replaced.iter().map(HandlerSection::name).collect::<Vec<_>>(), ["rank"]);
}

#[test]
fn numbers_and_truths_in_a_handlers_environment_are_text() {
    let written = Written::file("handlers:\n  - file: a.py\n    environment: {A: 1, B: true, C: 0.5, D: text, E: '007', F: -3}\n");
    let environment = &written.load().handlers[0].environment;
    let values: Vec<&str> = environment.values().map(String::as_str).collect();
    assert_eq!(values, ["1", "true", "0.5", "text", "007", "-3"]);
}

#[test]
fn what_is_wrong_with_a_handler_names_its_place() {
    let cases = [
        ("handlers=[{}]", "handlers[0] (--set handlers): names no program; give `file`"),
        ("handlers=[{file: a.py}, {file: b.py, command: [b]}]", "handlers[1].file (--set handlers): is given beside `command`"),
        ("handlers=[{command: ['']}]", "handlers[0].command (--set handlers): begins with nothing"),
        ("handlers=[{command: [b], protocol: lines}]", "handlers[0].kinds (--set handlers): is empty; with `protocol: lines`"),
        ("handlers=[{file: a.py, protocol: lines, kinds: [a]}]", "handlers[0].protocol (--set handlers): is lines"),
        (
            "handlers=[{command: [b], protocol: lines, kinds: [a], concurrency: 2}]",
            "handlers[0].concurrency (--set handlers): is 2, and with",
        ),
        ("handlers=[{file: a.py, processes: 0}]", "handlers[0].processes (--set handlers): is 0, and must be between 1 and 64"),
        ("handlers=[{file: a.py, idle_timeout_ms: 10}]", "handlers[0].idle_timeout_ms (--set handlers): is 10, and must be at least 1000"),
        ("handlers=[{file: a.py, name: two words}]", "handlers[0].name (--set handlers): is \"two words\""),
        ("handlers=[{file: a/x.py}, {file: b/x.py}]", "handlers[1].name (--set handlers): \"x\" is what handlers[0] is called too"),
        (
            "handlers=[{file: a.py, kinds: [k]}, {file: b.py, kinds: [k]}]",
            "handlers[1].kinds (--set handlers): names k, which handlers[0] runs too",
        ),
        ("handlers=[{file: a.py, kinds: [k, k]}]", "handlers[0].kinds (--set handlers): names k twice"),
        ("handlers=[{file: a.py, environment: {'A=B': c}}]", "which is no name of a variable"),
        ("handlers=[{file: a.py, environment: {GPUFLEET_GPU_ID: x}}]", "sets GPUFLEET_GPU_ID, which the worker itself sets"),
        ("handlers=[{file: a.py, fiel: b}]", "unknown field `fiel`"),
        ("handlers=[{file: a.py}, {fiel: b}]", "handlers[1].fiel (--set handlers): unknown field"),
        ("handlers=[{file: a.py, environment: {A: [1]}}]", "handlers[0].environment.A (--set handlers): must be text"),
        ("handlers=[{file: a.py, memory_mb: -1}]", "handlers[0].memory_mb (--set handlers): invalid value: integer `-1`"),
        (
            "handlers=[{file: a.py, protocol: json}]",
            "handlers[0].protocol (--set handlers): unknown variant `json`, expected `frames` or `lines`",
        ),
        ("handlers=[{file: a.py, kinds: [a, 'bad kind!']}]", "handlers[0].kinds[1] (--set handlers): "),
        ("models.pinned=[1]", "models.pinned[0] (--set models.pinned): invalid type: integer `1`, expected a string"),
        (
            "handlers=a.py",
            "handlers (--set handlers): invalid type: string \"a.py\", expected struct HandlerSection; give a list (default: [])",
        ),
        ("handlers.0.file=a.py", "is no key by itself; set the list as a whole: handlers=[…]"),
        ("models.memory_mb=0", "no model could ever be loaded"),
        ("models.embed=''", "is empty; name a model"),
        ("models.batch_axis={m: ''}", "give a model's name and that of one of its axes"),
    ];
    for (text, expected) in cases {
        let mistake = only_mistake(&overrides(&[text]));
        assert!(mistake.contains(expected), "{text}: {mistake}");
        assert!(!mistake.contains("give a list") || text == "handlers=a.py", "it is a list: {mistake}");
    }
    let handlers = vec![HandlerSection { file: Some("x.py".into()), ..HandlerSection::default() }];
    let mistake = only_mistake(&Sources { handlers, ..overrides(&["handlers=[{command: [x]}]"]) });
    assert!(mistake.starts_with("handlers[1].name (--handler): "), "{mistake}");
}

#[test]
fn models_are_named_and_the_ones_of_simulate_have_a_size() {
    let models = load(&overrides(&["models.simulated=[{name: a, load_ms: 5}, {name: b, memory_mb: 7}]", "models.pinned=a,b"]))
        .expect("valid")
        .models;
    let [a, b] = models.simulated.as_slice() else { panic!("{models:?}") };
    assert_eq!((a.name.as_str(), a.memory_mb, a.load_ms, b.name.as_str(), b.memory_mb, b.load_ms), ("a", 1_000, 5, "b", 7, 0));
    assert_eq!(models.pinned, ["a", "b"]);
    for (text, expected) in [
        ("models.simulated=[{name: \"\"}]", "names a model \"\""),
        ("models.simulated=[{memory_mb: 7}]", "name"),
        ("models.simulated=[{name: a, size: 7}]", "size"),
        ("models.simulated=[{name: a}, {name: a, memory_mb: 7}]", "models.simulated (--set models.simulated): names a twice"),
        ("models.pinned=[\"\"]", "names a model \"\""),
    ] {
        let mistake = only_mistake(&overrides(&[text]));
        assert!(mistake.contains(expected), "{text}: {mistake}");
    }
}
