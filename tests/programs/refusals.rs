//! What wrong input is answered with: the exit code, and the line that says what is wrong and what to do.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    thread,
};

use tests::{
    program::{Ended, gpufleet},
    rabbitmq::PrivateRabbitMq,
    redis::PrivateRedis,
};

use crate::servers::Servers;

/// One wrong input.
struct Row {
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
    code: i32,
    /// The first line on standard error; of a wrong configuration the second one, which names the mistake. Compared to its end, unless it ends with `…`: a server's own
    /// words, or the time of day, follow.
    line: String,
}

/// A row by its command line, which has no spaces within an argument.
fn row(command_line: &str, code: i32, line: impl Into<String>) -> Row {
    Row { arguments: command_line.split(' ').map(str::to_owned).collect(), variables: Vec::new(), code, line: line.into() }
}

impl Row {
    fn variable(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// What differs from what is expected.
    async fn difference(self) -> Option<String> {
        let variables: Vec<(&str, &str)> = self.variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let ended = gpufleet(Path::new("/"), &self.arguments, &variables).await;
        let line = told(&ended);
        let right = self.line.strip_suffix('…').map_or(line == self.line, |beginning| line.starts_with(beginning));
        if right && ended.code == Some(self.code) && !ended.errors.contains("panicked") {
            return None;
        }
        let Self { arguments, code, line: expected, .. } = self;
        Some(format!("{}\n  expected {code}: {expected}\n  found    {:?}: {line}", arguments.join(" "), ended.code))
    }
}

fn told(ended: &Ended) -> String {
    let mut lines = ended.errors.lines();
    // What a submit is warned of stands before what becomes of it.
    let first = lines.find(|line| !line.starts_with("warning: no living GPU")).unwrap_or_default();
    if first == "error: the configuration is wrong" { lines.next().unwrap_or_default().to_owned() } else { first.to_owned() }
}

async fn check(rows: Vec<Row>) {
    let mut differences = Vec::new();
    for row in rows {
        differences.extend(row.difference().await);
    }
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

/// A port where nobody listens. Not one that was free a moment ago: a client that dials a closed port of the range for outgoing connections may meet itself.
const CLOSED: u16 = 1;

/// A port where HTTP is answered, whatever is asked, as a web server answers what is no HTTP. It listens as long as the test's process lives.
fn web_server() -> u16 {
    fn answer(mut stream: TcpStream) {
        let mut asked = [0; 4_096];
        let _read = stream.read(&mut asked);
        let _written = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 5\r\nconnection: close\r\n\r\nwrong");
        // Until the client has gone: a reset could overtake the answer.
        while matches!(stream.read(&mut asked), Ok(count) if count > 0) {}
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_command_line_says_what_is_allowed() {
    let nowhere = "error: no fleet is named: give --url http://HOST:PORT of a gateway or of `gpufleet up` (or $GPUFLEET_URL), or the fleet's servers by --amqp-url and \
                   --redis-url (or $GPUFLEET_AMQP_URL and $GPUFLEET_REDIS_URL, or a file); `gpufleet demo` and `gpufleet up` need none";
    check(vec![
        row("submit echo", 2, nowhere),
        row("gpus", 2, nowhere),
        row("status t", 2, nowhere),
        row("submit echo --strategy zap", 2, "error: invalid value 'zap' for '--strategy <STRATEGY>'"),
        row("strategy set fastest", 2, "error: invalid value 'fastest' for '<STRATEGY>'"),
        row("submit echo --count 0", 2, "error: invalid value '0' for '--count <N>': must be at least 1"),
        row("submit echo --count many", 2, "error: invalid value 'many' for '--count <N>': must be a whole number, at least 1"),
        row("submit echo --priority 12", 2, "error: invalid value '12' for '--priority <PRIORITY>': 12 is not in 0..=9"),
        row("submit echo --max-attempts 0", 2, "error: invalid value '0' for '--max-attempts <N>': 0 is not in 1..=100"),
        row("submit echo --compute-capability 9", 2, "error: invalid value '9' for '--compute-capability <MAJOR.MINOR>': a compute capability is major.minor, like \"9.0\", not \"9\""),
        row("submit Echo", 2, "error: invalid value 'Echo' for '<KIND>': must be a kind: 1 to 64 lower-case letters, digits, '-', '_' or '.'"),
        row("submit echo --task-id", 2, "error: invalid value 'a b' for '--task-id <ID>': must be 1 to 128 visible ASCII characters other than braces").argument("a b"),
        row("submit echo --url http://h --reply-to q --payload {", 2, "error: --payload is not JSON: …"),
        row("submit echo --items /nowhere --as-batch --url http://h", 2, "error: read the items from /nowhere: No such file or directory (os error 2)"),
        row("submit echo --items /dev/null --as-batch --url http://h", 2, "error: /dev/null: has no items; each line is one, as JSON"),
        row("submit echo --as-batch --url http://h", 2, "error: the following required arguments were not provided:"),
        row("submit echo --items f --as-batch --on-error stop", 2, "error: invalid value 'stop' for '--on-error <report|fail>'"),
        row("submit echo --items f --as-batch --payload 1", 2, "error: the argument '--…"),
        row("results b --from 10001 --url http://h", 2, "error: invalid value '10001' for '--from <N>': 10001 is not in 0..=10000"),
        row("results b", 2, nowhere),
        row("submit echo --payload @/nowhere --url http://h", 2, "error: read the payload from /nowhere: No such file or directory (os error 2)"),
        row("submit echo --reply-to q --url http://h", 2, "error: --reply-to names a queue of the broker, and a gateway hands no replies to queues: give --amqp-url and --redis-url, or ask for its status"),
        row("submit echo --items /nowhere --reply-to q --url http://h", 2, "error: --reply-to names a queue of the broker, and a gateway hands no replies to queues: give --amqp-url and --redis-url, or ask for its status"),
        row("submit echo --items f --keep-as x --url http://h", 2, "error: --keep-as: with --items each line is a task of its own; leave it out, or make them one task with --as-batch"),
        row("submit echo --keep-ttl 5s --url http://h", 2, "error: the following required arguments were not provided:"),
        row("submit echo --on-missing hope", 2, "error: invalid value 'hope' for '--on-missing <fail|wait>'"),
        row("tensors ls", 2, nowhere),
        row("tensors rm x --url http://h --redis-url redis://h", 2, "error: --url names a gateway, and --amqp-url, --redis-url or --set name servers: give one way to the fleet"),
        row("tensors rm a/b", 2, "error: invalid value 'a/b' for '<NAME>...': must be the name of a tensor: 1 to 200 letters, digits, '-', '_', '.' or ':'"),
        row("tensors put x /nowhere --url http://h", 2, "error: read the tensor from /nowhere: No such file or directory (os error 2)"),
        row("tensors put x / --url http://h", 2, "error: read the tensor from /: is a folder"),
        row("tensors put x f --dtype float32", 2, "error: invalid value 'float32' for '--dtype <DTYPE>'"),
        row("tensors put x f --shape 2x3", 2, "error: invalid value '2x3' for '--shape <N,N,…>': must be whole numbers with commas between them, as 2,3"),
        row("tensors put x f --ttl 31d", 2, "error: invalid value '31d' for '--ttl <TIME>': must be at most 30d"),
        row("strategy get", 2, nowhere),
        row("drain g", 2, nowhere),
        row("dead ls", 2, nowhere),
        row("status t --url https://h", 2, "error: --url: \"https://h\" asks for TLS, which the fleet does not speak yet; begin with http://"),
        row("status t --url http://me:secret@h", 2, "error: --url: \"http://***@h\" is more than the address of a gateway; write http://host:port"),
        row("status t", 2, "error: variable GPUFLEET_URL: \"localhost\" is not a URL; write http://host:port").variable("GPUFLEET_URL", "localhost"),
        row("status t --url http://h --redis-url redis://h", 2, "error: --url names a gateway, and --amqp-url, --redis-url or --set name servers: give one way to the fleet"),
        row("up --url http://h", 2, "error: --url names the gateway of a fleet to talk to, and this command talks to none; submit, status, results, cancel, tasks, why, log, top, bottleneck, scaling, actions, group, gpus, kinds, models, tensors, unserved, strategy, thresholds, drain, undrain, dead and doctor do"),
        row("config check --set worker.lease=3", 2, "worker.lease (--set worker.lease): unknown key; did you mean worker.lease_ms?"),
        row("config check --amqp-url amqp://h:5672/", 2, "amqp.url (--amqp-url): is \"amqp://h:5672/\", which names a virtual host without a name; write /%2f for the default one, or leave the slash out"),
        row("config check --redis-url rediss://h", 2, "redis.url (--redis-url): is \"rediss://h\", which asks for TLS: the fleet does not speak it to Redis yet; begin with redis://…"),
        row("config check", 0, "warning: variable GPUFLEET_REDIS has no effect: did you mean GPUFLEET_REDIS_URL?").variable("GPUFLEET_REDIS", "3"),
        row("config check", 0, "warning: variable GPUFLEET_WORKER_LEASE_MS has no effect: did you mean GPUFLEET__WORKER__LEASE_MS?").variable("GPUFLEET_WORKER_LEASE_MS", "3"),
        row("config check", 2, "variable GPUFLEET_REDIS_URI: unknown variable; did you mean GPUFLEET_REDIS_URL?").variable("GPUFLEET_REDIS_URI", "redis://h"),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_strategy_is_answered_with_the_list_and_the_nearest_one() {
    let refused = gpufleet(Path::new("/"), ["submit", "echo", "--strategy", "least_load"], &[]).await;
    for part in ["[possible values: round_robin, least_loaded, task_specific]", "a similar value exists: 'least_loaded'"] {
        assert!(refused.errors.contains(part), "{part}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_of_another_server_is_told_from_one_that_is_away() {
    let (free, web) = (CLOSED, web_server());
    let no_redis =
        "does not answer: what listens there is no Redis; is the port right? (a Redis listens on 6379, unless it was told otherwise)";
    check(vec![
        row(
            &format!("status t --url http://127.0.0.1:{free}"),
            3,
            format!("error: reach the gateway at http://127.0.0.1:{free}: Connection refused (os error 111); does `gpufleet up` or `gpufleet gateway` listen there?"),
        ),
        row(
            &format!("gpus --url http://127.0.0.1:{web}"),
            1,
            format!("error: GET /api/v1/gpus: http://127.0.0.1:{web} answers 400 Bad Request, and not as a gateway does; is this a gateway's address?"),
        ),
        row(
            &format!("submit echo --amqp-url amqp://127.0.0.1:{free} --redis-url redis://h"),
            3,
            format!("error: reach the broker at amqp://127.0.0.1:{free}: …"),
        ),
        row(
            &format!("submit echo --amqp-url amqp://127.0.0.1:{web} --redis-url redis://h"),
            3,
            format!("error: connect to amqp://127.0.0.1:{web}: what listens there answers, but not in AMQP; is this the broker's port for AMQP (5672, or 5671 with amqps://)?"),
        ),
        row(&format!("status t --redis-url redis://127.0.0.1:{web}"), 3, format!("error: ping: the table at redis://127.0.0.1:{web} {no_redis}")),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_and_a_redis_that_let_nobody_in_say_why() {
    let (amqp, redis) = (PrivateRabbitMq::shared().await.port(), PrivateRedis::shared().await.url());
    let redis = redis.reveal();
    let submit = |url: &str| format!("submit echo --redis-url {redis} --amqp-url {url}");
    let strange = redis.replace("redis://", "redis://:wrong@");
    let shown = redis.replace("redis://", "redis://:***@");
    check(vec![
        row(
            &submit(&format!("amqp://guest:wrong@127.0.0.1:{amqp}/%2f")),
            3,
            format!("error: connect to amqp://guest:***@127.0.0.1:{amqp}/%2f: the broker refuses the login; check user and password (ACCESS_REFUSED…"),
        ),
        row(
            &submit(&format!("amqp://guest:guest@127.0.0.1:{amqp}/nowhere")),
            3,
            format!("error: connect to amqp://guest:***@127.0.0.1:{amqp}/nowhere: the broker has no virtual host \"nowhere\"; the default one is written /%2f, or left out together with its slash (NOT_ALLOWED…"),
        ),
        row(
            &submit(&format!("amqps://guest:guest@127.0.0.1:{amqp}/%2f")),
            3,
            format!("error: connect to amqps://guest:***@127.0.0.1:{amqp}/%2f: what listens there answers, but not in TLS; is this the broker's port for TLS (5671)? Without TLS write amqp://"),
        ),
        row(
            &format!("status t --redis-url {strange}"),
            3,
            format!("error: ping: the table at {shown} does not answer: the server refuses it; check the user, its password and what its access list allows: the login was refused"),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_fleet_can_do_is_refused_with_what_it_has() {
    let servers = Servers::fresh().await;
    let command = |arguments: &[&str]| servers.command_line(arguments);
    // Nobody serves the pool yet.
    let lonely = command(&["submit", "echo", "--task-id", "lonely", "--wait", "--timeout", "5"]);
    let none = "error: wait for task lonely: no reply within 5 s: it waits: no GPU serves the pool default (`gpufleet worker` starts one); it goes on, `gpufleet status` tells of it and \
                `gpufleet cancel` ends it";
    check(vec![Row { arguments: lonely, variables: Vec::new(), code: 5, line: none.to_owned() }]).await;

    let _fleet = servers.up(2, &[]).await;
    let number = "error: no GPU has the number 9: those of the pool default have 0 to 1 now (`gpufleet gpus` lists them)";
    let rows = [(command(&["submit", "echo", "--gpu", "9"]), number), (command(&["drain", "9"]), number)];
    check(rows.into_iter().map(|(arguments, line)| Row { arguments, variables: Vec::new(), code: 4, line: line.to_owned() }).collect())
        .await;
}
