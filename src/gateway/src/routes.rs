//! The one table of what is served: method, path, handler and documentation together.

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{Method, Uri},
    middleware::from_fn_with_state,
    routing::{MethodRouter, delete, get, post, put},
};

use crate::{
    Gateway, Problem, actions, bulk, dead, events, front, gpus, groups, health, insights, kinds, live,
    metrics::{self, observe},
    models,
    openapi::{self, Operation, many, of_groups, of_insight, of_kinds, of_models, of_tensors, operating, operations},
    predict,
    problem::ProblemKind,
    results, segments, settings, task_list, tasks, tensors, ui, unserved,
};

/// One route.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) handler: fn() -> MethodRouter<Gateway>,
    pub(crate) operation: Operation,
}

/// Every route.
pub(crate) const ROUTES: [Route; 56] = [
    Route { method: "get", path: "/", handler: || get(front::show), operation: operations::FRONT },
    Route { method: "get", path: "/ui/{file}", handler: || get(ui::file), operation: operations::UI_FILE },
    Route { method: "post", path: "/api/v1/predict", handler: || post(predict::predict), operation: operations::PREDICT },
    Route { method: "post", path: "/api/v1/tasks", handler: || post(tasks::submit), operation: operations::SUBMIT },
    Route { method: "get", path: "/api/v1/tasks", handler: || get(task_list::list), operation: of_insight::LIST },
    Route { method: "post", path: "/api/v1/tasks:bulk", handler: || post(bulk::submit), operation: many::BULK },
    Route { method: "post", path: "/api/v1/tasks:wait", handler: || post(events::wait::wait), operation: many::WAIT },
    Route { method: "post", path: "/api/v1/tasks:cancel", handler: || post(task_list::cancel), operation: of_insight::CANCEL },
    Route { method: "post", path: "/api/v1/tasks:requeue", handler: || post(task_list::requeue), operation: of_insight::REQUEUE },
    Route { method: "get", path: "/api/v1/tasks/{task_id}", handler: || get(tasks::status), operation: operations::STATUS },
    Route { method: "get", path: "/api/v1/tasks/{task_id}/events", handler: || get(events::show), operation: operations::EVENTS },
    Route { method: "get", path: "/api/v1/tasks/{task_id}/log", handler: || get(task_list::log), operation: of_insight::LOG },
    Route { method: "get", path: "/api/v1/tasks/{task_id}/why", handler: || get(task_list::why), operation: of_insight::WHY },
    Route { method: "get", path: "/api/v1/tasks/{task_id}/results", handler: || get(results::show), operation: operations::RESULTS },
    Route {
        method: "get",
        path: "/api/v1/tasks/{task_id}/segments/{number}",
        handler: || get(segments::show),
        operation: operations::SEGMENT,
    },
    Route { method: "delete", path: "/api/v1/tasks/{task_id}", handler: || delete(tasks::cancel), operation: operations::CANCEL },
    Route { method: "get", path: "/api/v1/groups", handler: || get(groups::list), operation: of_groups::LIST },
    Route { method: "get", path: "/api/v1/groups/{group}", handler: || get(groups::show), operation: of_groups::SHOW },
    Route { method: "delete", path: "/api/v1/groups/{group}", handler: || delete(groups::cancel), operation: of_groups::CANCEL },
    Route { method: "get", path: "/api/v1/groups/{group}/tasks", handler: || get(groups::tasks), operation: of_groups::TASKS },
    Route { method: "get", path: "/api/v1/groups/{group}/events", handler: || get(groups::events), operation: of_groups::EVENTS },
    Route { method: "get", path: "/api/v1/gpus", handler: || get(gpus::list), operation: operations::GPUS },
    Route { method: "get", path: "/api/v1/gpus/{gpu_id}", handler: || get(gpus::one), operation: operations::GPU },
    Route { method: "get", path: "/api/v1/kinds", handler: || get(kinds::list), operation: of_kinds::LIST },
    Route { method: "get", path: "/api/v1/kinds/{kind}", handler: || get(kinds::one), operation: of_kinds::ONE },
    Route { method: "get", path: "/api/v1/unserved", handler: || get(unserved::list), operation: operations::UNSERVED },
    Route { method: "get", path: "/api/v1/overview", handler: || get(insights::overview), operation: of_insight::OVERVIEW },
    Route { method: "get", path: "/api/v1/history", handler: || get(insights::history), operation: of_insight::HISTORY },
    Route { method: "get", path: "/api/v1/bottleneck", handler: || get(insights::bottleneck), operation: of_insight::BOTTLENECK },
    Route { method: "get", path: "/api/v1/scaling", handler: || get(insights::scaling), operation: of_insight::SCALING },
    Route { method: "get", path: "/api/v1/live", handler: || get(live::show), operation: of_insight::LIVE },
    Route { method: "get", path: "/api/v1/actions", handler: || get(actions::list), operation: of_insight::ACTIONS },
    Route { method: "get", path: "/api/v1/settings", handler: || get(settings::show), operation: operating::SETTINGS },
    Route { method: "put", path: "/api/v1/settings/strategy", handler: || put(settings::set_strategy), operation: operating::SET_STRATEGY },
    Route {
        method: "put",
        path: "/api/v1/settings/thresholds",
        handler: || put(settings::set_thresholds),
        operation: operating::SET_THRESHOLDS,
    },
    Route { method: "put", path: "/api/v1/gpus/{gpu_id}/drain", handler: || put(settings::drain), operation: operating::DRAIN },
    Route { method: "delete", path: "/api/v1/gpus/{gpu_id}/drain", handler: || delete(settings::undrain), operation: operating::UNDRAIN },
    Route { method: "get", path: "/api/v1/models", handler: || get(models::list), operation: of_models::LIST },
    Route { method: "post", path: "/api/v1/models/{model}/load", handler: || post(models::load), operation: of_models::LOAD },
    Route { method: "post", path: "/api/v1/models/{model}/unload", handler: || post(models::unload), operation: of_models::UNLOAD },
    Route { method: "post", path: "/api/v1/models/{model}/pin", handler: || post(models::pin), operation: of_models::PIN },
    Route { method: "post", path: "/api/v1/models/{model}/unpin", handler: || post(models::unpin), operation: of_models::UNPIN },
    Route { method: "get", path: "/api/v1/tensors", handler: || get(tensors::list), operation: of_tensors::LIST },
    Route { method: "get", path: "/api/v1/tensors/{name}", handler: || get(tensors::show), operation: of_tensors::SHOW },
    Route { method: "put", path: "/api/v1/tensors/{name}", handler: || put(tensors::put), operation: of_tensors::PUT },
    Route { method: "delete", path: "/api/v1/tensors/{name}", handler: || delete(tensors::free), operation: of_tensors::FREE },
    Route { method: "get", path: "/api/v1/dead", handler: || get(dead::list), operation: operating::DEAD },
    Route { method: "post", path: "/api/v1/dead", handler: || post(dead::requeue_all), operation: operating::REQUEUE_ALL },
    Route { method: "delete", path: "/api/v1/dead", handler: || delete(dead::purge_all), operation: operating::PURGE_ALL },
    Route { method: "get", path: "/api/v1/dead/{task_id}", handler: || get(dead::of_task), operation: operating::DEAD_OF_TASK },
    Route { method: "delete", path: "/api/v1/dead/{task_id}", handler: || delete(dead::purge), operation: operating::PURGE },
    Route { method: "post", path: "/api/v1/dead/{task_id}/requeue", handler: || post(dead::requeue), operation: operating::REQUEUE },
    Route { method: "get", path: "/healthz", handler: || get(health::live), operation: operations::HEALTH },
    Route { method: "get", path: "/readyz", handler: || get(health::ready), operation: operations::READY },
    Route { method: "get", path: "/metrics", handler: || get(metrics::show), operation: operations::METRICS },
    Route { method: "get", path: "/openapi.json", handler: || get(openapi::show), operation: operations::OPENAPI },
];

/// Everything the gateway serves, as an axum router for tests and for embedding.
pub fn router(gateway: Gateway) -> Router {
    let body_bytes_max = gateway.options.body_bytes_max;
    let routes = ROUTES.iter().fold(Router::new(), |router, route| router.route(route.path, (route.handler)()));
    routes
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .layer(from_fn_with_state(gateway.clone(), observe))
        .with_state(gateway)
}

/// What a connection is still answered with that is one too many: whether the gateway lives and is ready, and its metrics. Everything else is refused, for a moment.
pub(crate) fn router_when_full(gateway: Gateway) -> Router {
    ROUTES
        .iter()
        .filter(|route| SHOWN_WHEN_FULL.contains(&route.path))
        .fold(Router::new(), |router, route| router.route(route.path, (route.handler)()))
        .fallback(no_room)
        .layer(from_fn_with_state(gateway.clone(), observe))
        .with_state(gateway)
}

const SHOWN_WHEN_FULL: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

async fn no_room(State(gateway): State<Gateway>) -> Problem {
    let detail = format!(
        "{} connections are open already (gateway.connections_max); come back later, or use fewer connections",
        gateway.connections.connections_max()
    );
    Problem::new(ProblemKind::Overloaded, detail).retry_after(NO_ROOM_RETRY_S)
}

/// Room is made as soon as one connection rests.
const NO_ROOM_RETRY_S: u64 = 1;

async fn no_route(uri: Uri) -> Problem {
    Problem::new(ProblemKind::NotFound, format!("nothing is served at {}; see /openapi.json", uri.path()))
}

async fn no_method(method: Method, uri: Uri) -> Problem {
    Problem::new(ProblemKind::MethodNotAllowed, format!("{} does not take {method}", uri.path()))
}
