//! The loop over messages.

use std::sync::Arc;

use headstart_dsl::FileLoader;
use headstart_protocol::kinds::Kinds;
use lsp_server::{Connection, ErrorCode, ExtractError, Message, Notification, Request, RequestId, Response};
use lsp_types::notification::{self as note, Notification as _};
use lsp_types::request::{self as ask, Request as _};
use lsp_types::{
    CodeActionKind, CodeActionOptions, CodeActionProviderCapability, CompletionOptions, CompletionResponse,
    DocumentSymbolResponse, FoldingRangeProviderCapability, GotoDefinitionResponse, Hover, HoverContents,
    HoverProviderCapability, InitializeParams, MarkupContent, MarkupKind, OneOf, Position,
    PrepareRenameResponse, PublishDiagnosticsParams, Range, RenameOptions, ServerCapabilities,
    SignatureHelpOptions, TextDocumentPositionParams, TextDocumentSyncCapability, TextDocumentSyncKind,
    TextEdit, Uri,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::documents::{Analysis, Documents, Text};
use crate::{LspError, actions, complete, diagnostics, hover, names, outline, signature};

struct Server<'a> {
    connection: &'a Connection,
    disk: &'a dyn FileLoader,
    documents: Documents,
    snippets: bool,
}

/// Answers the messages of an editor until it says goodbye.
///
/// # Errors
/// [`LspError`] where a message cannot be read or sent.
pub fn run(connection: &Connection, disk: &dyn FileLoader) -> Result<(), LspError> {
    let (id, params) = connection.initialize_start()?;
    let params: InitializeParams = serde_json::from_value(params)?;
    let info = serde_json::json!({ "name": "headstart", "version": env!("CARGO_PKG_VERSION") });
    let result = serde_json::json!({ "capabilities": capabilities(), "serverInfo": info });
    connection.initialize_finish(id, result)?;
    let completion = params.capabilities.text_document.and_then(|t| t.completion);
    let snippets = completion.and_then(|c| c.completion_item).and_then(|i| i.snippet_support);
    let documents = Documents::default();
    let mut server = Server { connection, disk, documents, snippets: snippets.unwrap_or(false) };
    for message in &connection.receiver {
        match message {
            Message::Request(r) if connection.handle_shutdown(&r)? => return Ok(()),
            Message::Request(r) => server.request(r)?,
            Message::Notification(n) => server.notification(n),
            Message::Response(_) => {}
        }
        // While more is waiting, a text is likely to change again.
        if connection.receiver.is_empty() {
            server.publish()?;
        }
    }
    Ok(())
}

fn capabilities() -> ServerCapabilities {
    ServerCapabilities {
        text_document_sync: Some(TextDocumentSyncCapability::Kind(TextDocumentSyncKind::INCREMENTAL)),
        hover_provider: Some(HoverProviderCapability::Simple(true)),
        definition_provider: Some(OneOf::Left(true)),
        references_provider: Some(OneOf::Left(true)),
        document_symbol_provider: Some(OneOf::Left(true)),
        document_formatting_provider: Some(OneOf::Left(true)),
        rename_provider: Some(OneOf::Right(RenameOptions {
            prepare_provider: Some(true),
            work_done_progress_options: Default::default(),
        })),
        document_highlight_provider: Some(OneOf::Left(true)),
        folding_range_provider: Some(FoldingRangeProviderCapability::Simple(true)),
        code_action_provider: Some(CodeActionProviderCapability::Options(CodeActionOptions {
            code_action_kinds: Some(vec![CodeActionKind::QUICKFIX]),
            ..Default::default()
        })),
        signature_help_provider: Some(SignatureHelpOptions {
            trigger_characters: Some(["(", ",", ":"].map(str::to_owned).to_vec()),
            ..Default::default()
        }),
        completion_provider: Some(CompletionOptions {
            trigger_characters: Some([".", ":", "(", ",", "=", "{"].map(str::to_owned).to_vec()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The answer to a request: a value, or why there is none.
type Answer = Result<serde_json::Value, String>;

fn answer(value: impl Serialize) -> Answer {
    serde_json::to_value(value).map_err(|e| e.to_string())
}

impl Server<'_> {
    fn send(&self, message: Message) -> Result<(), LspError> {
        self.connection.sender.send(message).map_err(|_| LspError::Closed)
    }

    fn request(&mut self, r: Request) -> Result<(), LspError> {
        let id = r.id.clone();
        let answer = match r.method.as_str() {
            ask::HoverRequest::METHOD => self.answer::<ask::HoverRequest>(r, Self::hover),
            ask::GotoDefinition::METHOD => self.answer::<ask::GotoDefinition>(r, Self::definition),
            ask::References::METHOD => self.answer::<ask::References>(r, Self::references),
            ask::PrepareRenameRequest::METHOD => {
                self.answer::<ask::PrepareRenameRequest>(r, Self::prepare_rename)
            }
            ask::Rename::METHOD => self.answer::<ask::Rename>(r, Self::rename),
            ask::Completion::METHOD => self.answer::<ask::Completion>(r, Self::completion),
            ask::Formatting::METHOD => self.answer::<ask::Formatting>(r, Self::formatting),
            ask::DocumentSymbolRequest::METHOD => self.answer::<ask::DocumentSymbolRequest>(r, Self::symbols),
            ask::DocumentHighlightRequest::METHOD => {
                self.answer::<ask::DocumentHighlightRequest>(r, Self::highlights)
            }
            ask::CodeActionRequest::METHOD => self.answer::<ask::CodeActionRequest>(r, Self::actions),
            ask::SignatureHelpRequest::METHOD => self.answer::<ask::SignatureHelpRequest>(r, Self::signature),
            ask::FoldingRangeRequest::METHOD => self.answer::<ask::FoldingRangeRequest>(r, Self::folding),
            other => {
                let text = format!("this server does not know {other}");
                let code = ErrorCode::MethodNotFound as i32;
                return self.send(Response::new_err(id, code, text).into());
            }
        };
        self.send(response(id, answer).into())
    }

    fn answer<R: ask::Request>(&mut self, r: Request, f: fn(&mut Self, R::Params) -> Answer) -> Answer
    where
        R::Params: DeserializeOwned,
    {
        match r.extract::<R::Params>(R::METHOD) {
            Ok((_, params)) => f(self, params),
            Err(ExtractError::JsonError { error, .. }) => {
                Err(format!("the request is not understood: {error}"))
            }
            Err(ExtractError::MethodMismatch(_)) => Err("the request is not understood".to_owned()),
        }
    }

    fn notification(&mut self, n: Notification) {
        // A notification cannot be answered: one that is not understood changes nothing.
        match n.method.as_str() {
            note::DidOpenTextDocument::METHOD => {
                if let Ok(p) =
                    n.extract::<lsp_types::DidOpenTextDocumentParams>(note::DidOpenTextDocument::METHOD)
                {
                    let d = p.text_document;
                    self.documents.open(d.uri, &d.text, d.version);
                }
            }
            note::DidChangeTextDocument::METHOD => {
                if let Ok(p) =
                    n.extract::<lsp_types::DidChangeTextDocumentParams>(note::DidChangeTextDocument::METHOD)
                {
                    self.documents.change(&p.text_document.uri, p.text_document.version, &p.content_changes);
                }
            }
            note::DidCloseTextDocument::METHOD => {
                if let Ok(p) =
                    n.extract::<lsp_types::DidCloseTextDocumentParams>(note::DidCloseTextDocument::METHOD)
                {
                    self.documents.close(&p.text_document.uri);
                    // The diagnostics of a closed file go away.
                    let none = PublishDiagnosticsParams::new(p.text_document.uri, Vec::new(), None);
                    let _ = self.send_diagnostics(none);
                }
            }
            // Files that are imported or listed may have changed.
            note::DidSaveTextDocument::METHOD | note::DidChangeWatchedFiles::METHOD => {
                self.documents.changed()
            }
            _ => {}
        }
    }

    /// Sends the diagnostics of every file whose text has changed.
    fn publish(&mut self) -> Result<(), LspError> {
        for path in self.documents.paths() {
            let Some(d) = self.documents.by_path(&path).filter(|d| !d.published) else { continue };
            d.published = true;
            let uri = d.uri.clone();
            let Some(a) = self.documents.analysis(&uri, self.disk) else { continue };
            let Some(d) = self.documents.get(&uri) else { continue };
            let found = diagnostics::diagnostics(&a, &d.text);
            self.send_diagnostics(PublishDiagnosticsParams::new(uri, found, Some(d.version)))?;
        }
        Ok(())
    }

    fn send_diagnostics(&self, p: PublishDiagnosticsParams) -> Result<(), LspError> {
        self.send(Notification::new(note::PublishDiagnostics::METHOD.to_owned(), p).into())
    }

    /// Asks something about a place in an open file; null where the file is not open.
    fn at(
        &mut self,
        uri: &Uri,
        position: Position,
        f: impl FnOnce(&Analysis, &Text, usize) -> Answer,
    ) -> Answer {
        let Some(a) = self.documents.analysis(uri, self.disk) else { return Ok(serde_json::Value::Null) };
        let Some(d) = self.documents.get(uri) else { return Ok(serde_json::Value::Null) };
        f(&a, &d.text, d.text.offset(position))
    }

    fn at_place(
        &mut self,
        p: &TextDocumentPositionParams,
        f: impl FnOnce(&Analysis, &Text, usize) -> Answer,
    ) -> Answer {
        self.at(&p.text_document.uri, p.position, f)
    }

    /// Asks something about a place in an open file that other open files may know more about.
    fn everywhere(
        &mut self,
        p: &TextDocumentPositionParams,
        f: impl FnOnce(&[Arc<Analysis>], usize) -> Answer,
    ) -> Answer {
        let uri = &p.text_document.uri;
        let Some(at) = self.documents.get(uri).map(|d| d.text.offset(p.position)) else {
            return Ok(serde_json::Value::Null);
        };
        f(&self.documents.analyses(uri, self.disk), at)
    }

    fn highlights(&mut self, p: lsp_types::DocumentHighlightParams) -> Answer {
        self.at_place(&p.text_document_position_params, |a, text, at| answer(names::highlights(a, text, at)))
    }

    fn actions(&mut self, p: lsp_types::CodeActionParams) -> Answer {
        let uri = p.text_document.uri;
        self.at(&uri, p.range.start, |a, text, _| answer(actions::actions(a, text, &uri, p.range)))
    }

    fn signature(&mut self, p: lsp_types::SignatureHelpParams) -> Answer {
        let p = p.text_document_position_params;
        // Of a built-in kind the text alone tells; it is asked for at every key.
        let Some(d) = self.documents.get(&p.text_document.uri) else { return Ok(serde_json::Value::Null) };
        match signature::signature(&d.text.text, d.text.offset(p.position), &Kinds::default()) {
            Some(help) => answer(Some(help)),
            None => {
                self.at_place(&p, |a, text, at| answer(signature::signature(&text.text, at, &a.index.kinds)))
            }
        }
    }

    fn folding(&mut self, p: lsp_types::FoldingRangeParams) -> Answer {
        self.at(&p.text_document.uri, Position::default(), |a, text, _| answer(outline::folding(a, text)))
    }

    fn hover(&mut self, p: lsp_types::HoverParams) -> Answer {
        self.at_place(&p.text_document_position_params, |a, text, at| {
            answer(hover::hover(a, at).map(|(value, span)| Hover {
                contents: HoverContents::Markup(MarkupContent { kind: MarkupKind::Markdown, value }),
                range: Some(text.range(span)),
            }))
        })
    }

    fn definition(&mut self, p: lsp_types::GotoDefinitionParams) -> Answer {
        self.at_place(&p.text_document_position_params, |a, _, at| {
            answer(names::definition(a, at).map(GotoDefinitionResponse::Scalar))
        })
    }

    fn references(&mut self, p: lsp_types::ReferenceParams) -> Answer {
        let declaration = p.context.include_declaration;
        self.everywhere(&p.text_document_position, |all, at| answer(names::references(all, at, declaration)))
    }

    fn prepare_rename(&mut self, p: TextDocumentPositionParams) -> Answer {
        self.at_place(&p, |a, text, at| {
            answer(names::renamable(a, at).map(|s| PrepareRenameResponse::Range(text.range(s))))
        })
    }

    fn rename(&mut self, p: lsp_types::RenameParams) -> Answer {
        self.everywhere(&p.text_document_position, |all, at| answer(names::rename(all, at, &p.new_name)?))
    }

    fn completion(&mut self, p: lsp_types::CompletionParams) -> Answer {
        let snippets = self.snippets;
        self.at_place(&p.text_document_position, |a, text, at| {
            answer(CompletionResponse::Array(complete::complete(a, &text.text, at, snippets)))
        })
    }

    fn formatting(&mut self, p: lsp_types::DocumentFormattingParams) -> Answer {
        let Some(d) = self.documents.get(&p.text_document.uri) else { return Ok(serde_json::Value::Null) };
        match headstart_dsl::format(&d.text.text) {
            Ok(new) if *new == *d.text.text => answer(Vec::<TextEdit>::new()),
            Ok(new) => {
                let all = Range::new(Position::default(), d.text.position(d.text.text.len()));
                answer(vec![TextEdit::new(all, new)])
            }
            // Its errors are shown already.
            Err(_) => Ok(serde_json::Value::Null),
        }
    }

    fn symbols(&mut self, p: lsp_types::DocumentSymbolParams) -> Answer {
        self.at(&p.text_document.uri, Position::default(), |a, text, _| {
            answer(DocumentSymbolResponse::Nested(outline::outline(a, text)))
        })
    }
}

fn response(id: RequestId, answer: Answer) -> Response {
    match answer {
        Ok(value) => Response::new_ok(id, value),
        Err(why) => Response::new_err(id, ErrorCode::RequestFailed as i32, why),
    }
}
