//! Bounds on how many may do the same at once.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::Problem;

/// Places for so many, and the words for one more.
#[derive(Clone)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    refusal: &'static str,
}

/// Given back when it is dropped.
#[must_use]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// Places for `most`.
    pub(crate) fn new(most: usize, refusal: &'static str) -> Places {
        Places::shared(Arc::new(Semaphore::new(most)), refusal)
    }

    /// Places that others give away too.
    pub(crate) fn shared(free: Arc<Semaphore>, refusal: &'static str) -> Places {
        Places { free, refusal }
    }

    /// A place, or the answer for who gets none.
    pub(crate) fn take(&self) -> Result<Place, Problem> {
        match self.free.clone().try_acquire_owned() {
            Ok(permit) => Ok(Place { _permit: permit }),
            Err(_) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, self.refusal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    /// Status and words of a refusal.
    async fn refused(places: &Places) -> (u16, String) {
        let Err(problem) = places.take() else { panic!("one more was let in") };
        let answer = problem.into_response();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 4096).await.expect("a body");
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        (status, body["detail"].as_str().expect("a detail").to_owned())
    }

    #[tokio::test]
    async fn one_more_is_refused_until_a_place_is_given_back() {
        let places = Places::new(2, "too many");
        let first = places.take().expect("a place");
        let _second = places.clone().take().expect("another, of a copy");
        assert_eq!(refused(&places).await, (503, "too many".to_owned()));
        drop(first);
        let _third = places.take().expect("the place that was given back");
        assert_eq!(refused(&places).await, (503, "too many".to_owned()));
    }

    #[tokio::test]
    async fn a_task_that_is_ended_gives_its_place_back() {
        let free = Arc::new(Semaphore::new(1));
        let places = Places::shared(free.clone(), "too many");
        let place = places.take().expect("a place");
        let task = tokio::spawn(async move {
            let _place = place;
            std::future::pending::<()>().await;
        });
        assert_eq!(refused(&places).await.0, 503);
        task.abort();
        assert!(task.await.is_err_and(|error| error.is_cancelled()));
        assert_eq!(free.available_permits(), 1);
        assert!(places.take().is_ok());
    }
}
