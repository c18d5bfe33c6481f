//! What the service does.

use std::pin::Pin;

use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::service::words_server::Words;
use super::service::{Number, Text};

/// Does what the service says, and counts for as long as it is asked to.
#[derive(Debug, Default)]
pub(crate) struct WordsService;

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Words for WordsService {
    type CountStream = Streamed<Number>;
    type EchoStream = Streamed<Text>;

    async fn upper(&self, request: Request<Text>) -> Result<Response<Text>, Status> {
        tracing::info!(peer = ?request.remote_addr(), "upper");
        if request.get_ref().text.is_empty() {
            return Err(Status::invalid_argument("no text"));
        }
        Ok(Response::new(Text::new(request.into_inner().text.to_uppercase())))
    }

    async fn count(&self, request: Request<Number>) -> Result<Response<Self::CountStream>, Status> {
        let to = request.into_inner().number;
        Ok(Response::new(stream::iter(1..=to).map(|number| Ok(Number { number })).boxed()))
    }

    async fn longest(&self, request: Request<Streaming<Text>>) -> Result<Response<Text>, Status> {
        let mut texts = request.into_inner();
        let mut longest = Text::default();
        while let Some(text) = texts.try_next().await? {
            if text.text.len() > longest.text.len() {
                longest = text;
            }
        }
        Ok(Response::new(longest))
    }

    async fn echo(&self, request: Request<Streaming<Text>>) -> Result<Response<Self::EchoStream>, Status> {
        Ok(Response::new(request.into_inner().boxed()))
    }
}
