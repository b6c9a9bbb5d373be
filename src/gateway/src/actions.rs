//! What operators did, noted for those who ask later: who changed what, and when.

use std::time::Duration;

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use protocol::OperatorAction;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::{Gateway, Problem, operate::Operator, query};

/// How many are shown where a request does not say.
const SHOWN: usize = 100;
/// How many are shown at most.
pub(crate) const SHOWN_MAX: usize = 1_000;
/// So long an answer waits for its action to be noted.
const NOTE_TIMEOUT: Duration = Duration::from_secs(1);

/// What operators did.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ActionList {
    /// The latest first.
    actions: Vec<OperatorAction>,
}

/// How many are shown.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ActionsQuery {
    limit: Option<String>,
}

/// `GET /api/v1/actions`.
pub(crate) async fn list(
    _: Operator,
    State(gateway): State<Gateway>,
    query: Result<Query<ActionsQuery>, QueryRejection>,
) -> Result<Json<ActionList>, Problem> {
    let Query(ActionsQuery { limit }) = query.map_err(|rejection| query::unread(&["limit"], &rejection))?;
    let limit = limit.map_or(Ok(SHOWN), |text| query::whole_number("limit", &text, 1..=SHOWN_MAX))?;
    let actions = gateway.observatory.actions(limit).await.map_err(|error| gateway.observe_failed(&error))?;
    Ok(Json(ActionList { actions }))
}

impl Gateway {
    /// Notes what an operator did. It is done by then: that it could not be noted is in the log, and no failure of the request.
    pub(crate) async fn note(&self, operator: &Operator, action: &'static str, target: String, detail: String) {
        let who = operator.who.clone();
        info!(who = who.as_str(), action, to = target.as_str(), detail = detail.as_str(), "an operator changed the fleet");
        let action = OperatorAction {
            at_ms: self.ports.producer.now_ms(),
            who,
            via: "gateway".to_owned(),
            action: action.to_owned(),
            target,
            detail,
        };
        match timeout(NOTE_TIMEOUT, self.observatory.note_action(action)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "an operator's action is not in the action log"),
            Err(_) => {
                warn!(after_ms = %NOTE_TIMEOUT.as_millis(), "an operator's action may not be in the action log: the store did not answer in time")
            }
        }
    }
}
