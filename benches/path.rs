//! The steps of one request's path: `cargo bench --features benching`, or some of them:
//! `cargo bench --features benching -- route`.
#![allow(missing_docs, reason = "criterion's macros write functions without any")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use http::HeaderValue;
use wxgate::bench_support::BenchFixture;

fn heads(c: &mut Criterion) {
    let street = BenchFixture::new(1, 3);
    let head = street.head();
    c.bench_function("head: read", |b| b.iter(|| street.parse(black_box(&head))));
    let (request, host) = (street.parse(&head), HeaderValue::from_static("h5.example.com"));
    let mut out = Vec::with_capacity(2048);
    c.bench_function("head: written for the site", |b| {
        b.iter(|| {
            out.clear();
            street.write(&mut out, black_box(&request), &host);
        });
    });
}

fn cookies(c: &mut Criterion) {
    let street = BenchFixture::new(1, 3);
    let request = street.parse(&street.head());
    let headers = request.headers();
    assert!(street.remembered(headers) && street.verified(headers) && street.checked());
    c.bench_function("cookie: found and remembered", |b| {
        b.iter(|| street.remembered(black_box(headers)));
    });
    c.bench_function("cookie: found and verified", |b| {
        b.iter(|| street.verified(black_box(headers)));
    });
    c.bench_function("session: good here and now", |b| b.iter(|| black_box(&street).checked()));
}

fn routes(c: &mut Criterion) {
    for (sites, routes) in [(1, 3), (1, 20), (1000, 20)] {
        let street = BenchFixture::new(sites, routes);
        let host = street.host().to_owned();
        // Every route in turn: where in the list a path stands must not be what is measured.
        let paths: Vec<String> = (1..=routes).map(|n| format!("/part-{n}/orders")).collect();
        let mut turn = paths.iter().cycle();
        c.bench_function(&format!("route: {sites} sites × {routes} routes"), |b| {
            b.iter(|| street.routed(black_box(&host), turn.next().map_or("/", String::as_str)));
        });
    }
}

criterion_group!(path, heads, cookies, routes);
criterion_main!(path);
