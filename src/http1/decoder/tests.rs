//! Bodies, whole and in pieces.

use proptest::{collection::vec, prelude::*};

use super::*;

/// What a body brings, and what is left behind it.
fn decoded(
    framing: BodyDecoder,
    pieces: &[&[u8]],
) -> Result<(Vec<u8>, bool, Vec<u8>), &'static str> {
    let (mut framing, mut input, mut body) = (framing, BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        while let DecodeResult::Data(data) = framing.decode(&mut input).map_err(|_| "chunks")? {
            body.extend_from_slice(&data);
        }
    }
    Ok((body, framing.is_ended(), input.to_vec()))
}

#[test]
fn b5_chunks_have_one_reading() {
    let bad = [
        "\r\n",
        "g\r\n",
        "0x1\r\na\r\n",
        "1 \r\na\r\n",
        "1\na\r\n",
        "1\r\nab",
        "1\r\na\n",
        "1;a\n",
        "1\ra",
        "-1\r\n",
        "+1\r\n",
        "11111111111111111\r\n",
        "00000000000000001\r\na",
        "0\r\na: b\n\r\n",
        "0\r\na: b\rc",
        "0\r\n\rx",
        "0\r\n\n",
    ];
    for body in bad {
        assert_eq!(
            decoded(BodyDecoder::CHUNKED_REQUEST, &[body.as_bytes()]),
            Err("chunks"),
            "{body:?}"
        );
    }
    assert_eq!(bad.len(), 17);
}

#[test]
fn b5_extensions_and_trailers_follow_their_grammar() {
    use BodyDecoder as B;
    // What follows the size of the first chunk; whether a visitor may send it, and a site.
    let extensions: [(&[u8], bool, bool); 47] = [
        (b"", true, true),
        (b";a", true, true),
        (b";a=b", true, true),
        (b";a;b=c;d", true, true),
        (b";a=\"\"", true, true),
        (b";a=\"b;c \\\" =\td\"", true, true),
        (b";a=\"\\\\\"", true, true),
        (b";a=\"\xe4\xb8\xad\\\xe4\"", true, true),
        (b" ;a", true, true),
        (b"\t; a \t= b ;c = \"d\" ;e", true, true),
        (b"; !#$%&'*+-.^_`|~0aZ=1", true, true),
        (b";", false, true),
        (b"; ", false, true),
        (b";;", false, true),
        (b";a;", false, true),
        (b";;a", false, true),
        (b";a=", false, true),
        (b";a= ", false, true),
        (b";=b", false, true),
        (b";a==b", false, true),
        (b";a=b=c", false, true),
        (b";a ", false, true),
        (b";a=b ", false, true),
        (b";a=\"b\" ", false, true),
        (b";a b", false, true),
        (b";a=b c", false, true),
        (b";a=b\"c\"", false, true),
        (b";a=\"b\"c", false, true),
        (b";a=\"b\"\"c\"", false, true),
        (b";a=\"b", false, true),
        (b";a=\"b\\\"", false, true),
        (b";a=\"b\x7f\"", false, true),
        (b";a=\"b\\\0\"", false, true),
        (b";bad[=x", false, true),
        (b";a=[x", false, true),
        (b";a,b", false, true),
        (b";\0ext", false, true),
        (b";a\0", false, true),
        (b";a\x01=b", false, true),
        (b";\xe4\xb8\xad", false, true),
        (b";a=\xe4\xb8\xad", false, true),
        (b" ", false, false),
        (b" a", false, false),
        (b"\t", false, false),
        (b" =b", false, false),
        (b";a\n", false, false),
        (b";a=\"\r\"", false, false),
    ];
    let trailers: [(&[u8], bool, bool); 14] = [
        (b"a: b", true, true),
        (b"a:", true, true),
        (b"a:b:c", true, true),
        (b"a: \xe4\xb8\xad\t", true, true),
        (b"a", false, true),
        (b":", false, true),
        (b": b", false, true),
        (b"a : b", false, true),
        (b" a: b", false, true),
        (b"\ta: b", false, true),
        (b"a b: c", false, true),
        (b"a: \0", false, true),
        (b"a\0: b", false, true),
        (b"a: b\n", false, false),
    ];
    let chunk = |rest: &[u8]| [b"1", rest, b"\r\na\r\n0\r\n\r\n"].concat();
    let last = |rest: &[u8]| [b"1\r\na\r\n0", rest, b"\r\n\r\n"].concat();
    let trailer = |rest: &[u8]| [b"1\r\na\r\n0\r\nt: 1\r\n", rest, b"\r\n\r\n"].concat();
    let extensions = extensions.iter().flat_map(|(it, visitor, site)| {
        [(chunk(it), *visitor, *site), (last(it), *visitor, *site)]
    });
    let trailers = trailers.iter().map(|(it, visitor, site)| (trailer(it), *visitor, *site));
    let mut seen = 0;
    for (bytes, visitor, site) in extensions.chain(trailers) {
        let dealt: Vec<&[u8]> = bytes.chunks(1).collect();
        for (framing, passes) in [(B::CHUNKED_REQUEST, visitor), (B::CHUNKED_RESPONSE, site)] {
            for pieces in [&*dealt, &[&bytes]] {
                let expected =
                    if passes { Ok((b"a".to_vec(), true, vec![])) } else { Err("chunks") };
                let text = bytes.escape_ascii();
                assert_eq!(decoded(framing, pieces), expected, "{framing:?} {text}");
            }
            assert_eq!(framing.check(&bytes).is_ok(), passes, "{}", bytes.escape_ascii());
        }
        seen += 1;
    }
    assert_eq!(seen, 108);
}

#[test]
fn the_beginning_of_a_body_is_judged_before_it_is_taken() {
    use BodyStart::{Incomplete, Valid};
    let cases = [
        ("", Some(Incomplete)),
        ("5", Some(Incomplete)),
        ("5\r", Some(Incomplete)),
        ("5;a", Some(Incomplete)),
        ("5\r\n", Some(Valid)),
        ("5\r\nab", Some(Valid)),
        ("2\r\nab\r\n", Some(Valid)),
        ("2\r\nab\r\n3", Some(Valid)),
        ("0\r\n", Some(Valid)),
        ("0\r\n\r\nHTTP/1.1", Some(Valid)),
        ("x", None),
        ("\r\n", None),
        ("-5\r\n", None),
        ("5\n", None),
        ("2\r\nabc", None),
        ("2\r\nab\r\nx", None),
        ("0\r\n\n", None),
    ];
    for (text, expected) in cases {
        let start = BodyDecoder::CHUNKED_RESPONSE.check(text.as_bytes()).ok();
        assert_eq!(start, expected, "{text:?}");
    }
    assert_eq!(BodyDecoder::of(5).check(b"").ok(), Some(Valid));
}

#[test]
fn where_bodies_end() {
    let cases = [
        (BodyDecoder::Done, "abc", "", true, "abc"),
        (BodyDecoder::of(0), "abc", "", true, "abc"),
        (BodyDecoder::of(2), "abc", "ab", true, "c"),
        (BodyDecoder::of(4), "abc", "abc", false, ""),
        (BodyDecoder::CloseDelimited, "abc", "abc", false, ""),
        (BodyDecoder::CHUNKED_REQUEST, "3;x\r\nabc\r\n0\r\nt: 1\r\n\r\nGET", "abc", true, "GET"),
        (BodyDecoder::CHUNKED_REQUEST, "3\r\nabc\r\n", "abc", false, ""),
    ];
    for (framing, input, body, ended, rest) in cases {
        let expected = (body.as_bytes().to_vec(), ended, rest.as_bytes().to_vec());
        assert_eq!(decoded(framing, &[input.as_bytes()]), Ok(expected), "{framing:?} {input:?}");
    }
}

#[test]
fn g5_what_is_no_body_has_an_end() {
    let extension = format!("1;{}\r\na\r\n", "x".repeat(5000));
    assert!(decoded(BodyDecoder::CHUNKED_REQUEST, &[extension.repeat(3).as_bytes()]).is_ok());
    assert_eq!(
        decoded(BodyDecoder::CHUNKED_REQUEST, &[extension.repeat(4).as_bytes()]),
        Err("chunks")
    );
    let trailers = format!("0\r\n{}", "a: b\r\n".repeat(5000));
    assert_eq!(decoded(BodyDecoder::CHUNKED_REQUEST, &[trailers.as_bytes()]), Err("chunks"));
    let spaces = format!("1{};a\r\na\r\n", " ".repeat(20_000));
    assert_eq!(decoded(BodyDecoder::CHUNKED_REQUEST, &[spaces.as_bytes()]), Err("chunks"));
}

proptest! {
    #[test]
    fn it_does_not_matter_how_the_bytes_are_dealt_out(
        chunks in vec(vec(any::<u8>(), 1..40), 0..6),
        rest in vec(any::<u8>(), 0..9),
        sizes in vec(1_usize..9, 1..9),
    ) {
        let mut bytes: Vec<u8> = chunks
            .iter()
            .flat_map(|chunk| {
                let size = format!("{:X}\r\n", chunk.len()).into_bytes();
                [size, chunk.clone(), b"\r\n".to_vec()].concat()
            })
            .collect();
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes.extend_from_slice(&rest);
        let (mut left, mut sizes, mut dealt) = (&*bytes, sizes.iter().cycle(), Vec::new());
        while !left.is_empty() {
            let (piece, tail) = left.split_at(left.len().min(*sizes.next().unwrap()));
            dealt.push(piece);
            left = tail;
        }
        let expected = Ok((chunks.concat(), true, rest));
        prop_assert_eq!(&decoded(BodyDecoder::CHUNKED_REQUEST, &[&bytes]), &expected);
        prop_assert_eq!(&decoded(BodyDecoder::CHUNKED_REQUEST, &dealt), &expected);
    }
}
