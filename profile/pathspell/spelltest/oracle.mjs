// The oracle: which route does a server run for the bytes that a proxy sends?
//
// Plain Node, no packages. Every model below is the path handling of one router, written after its source; `new URL`
// and the legacy `url.parse` are Node's own. Caddy is not here: the Go test computes the bytes that are sent.
//
//   node oracle.mjs < question.json > answer.json
//
//   question  {"base": "/api/auth", "routes": ["/sign-out", "/callback/:id"], "sent": ["/api/auth/./sign-out"]}
//             a character of `sent` is one byte (Latin-1), as in Node's req.url
//   answer    {"models": ["better-auth", ...], "runs": [["/sign-out", null, ...]]}, null for "not executed"

import { readFileSync } from 'node:fs'
import { parse as legacyParse } from 'node:url'

const { base, routes, sent } = JSON.parse(readFileSync(0, 'utf8'))
const templates = routes.map((route) => ({ route, segments: (base + route).split('/') }))

// match finds the route that `path` is, segment by segment; static routes come first in `routes`.
function match(path, segment = (s) => s, emptyParameter = false) {
  const got = path.split('/')
  const hit = templates.find(({ segments }) =>
    segments.length === got.length &&
    segments.every((want, i) => (want[0] === ':' ? got[i] !== '' || emptyParameter : segment(got[i]) === want)))
  return hit ? hit.route : null
}

const query = (s) => s.split('?')[0]
const oneTrailingSlash = (p) => (p.length > 1 && p.endsWith('/') ? p.slice(0, -1) : p)
const hasEscape = /%[0-9A-Fa-f]{2}/g

// latin1 percent-decodes to bytes, one character each, as Go's strings are bytes.
const latin1 = (s) => s.replace(hasEscape, (e) => String.fromCharCode(parseInt(e.slice(1), 16)))
const utf8 = (s) => Buffer.from(latin1(s), 'latin1').toString('utf8')
const latin1KeepSlash = (s) => s.replace(/%(?!2[Ff])[0-9A-Fa-f]{2}/g, (e) => latin1(e))

// A Node server hands over a target only in origin-form, asterisk-form or absolute-form (llhttp).
const nodeAccepts = (s) => /^(\/|\*$|[A-Za-z]+:\/\/[^/?])/.test(s)

// ---- better-auth 1.7.25 = better-call 1.4.5 router: WHATWG path, exact, no decoding, no "//" -------------------------

function betterAuth(s, skipTrailingSlashes) {
  if (!nodeAccepts(s)) return null
  const path = new URL('http://localhost:3000' + s).pathname
  if (/\/{2,}/.test(path)) return null
  if (path.endsWith('/')) return skipTrailingSlashes ? match(path.slice(0, -1)) : null
  return match(path)
}

// ---- `new URL(req.url, base)`, as most hand-written Node servers have it ---------------------------------------------

function baseUrlJoin(s) {
  return nodeAccepts(s) ? match(new URL(s, 'http://localhost:3000').pathname) : null
}

// ---- Hono 4 on @hono/node-server: new URL, then decodeURI once, "%25" kept, undecodable runs kept ---------------------

function hono(s, strict) {
  if (!nodeAccepts(s)) return null
  const path = new URL(s[0] === '/' ? 'http://localhost:3000' + s : s).pathname
  const keepPercent = (t) => decodeURI(t.replace(/%25/g, '%2525'))
  let decoded
  try {
    decoded = keepPercent(path)
  } catch {
    decoded = path.replace(/(?:%[0-9A-Fa-f]{2})+/g, (run) => { try { return keepPercent(run) } catch { return run } })
  }
  return match(strict ? decoded : oneTrailingSlash(decoded))
}

// ---- Express 4 and 5: parseurl, path-to-regexp without case, one trailing slash; parameters are decoded --------------

function expressPath(s) {
  if (s[0] === '/' && !/[\t\n\f\r #\u00a0\ufeff]/.test(s)) return query(s)
  return legacyParse(s).pathname
}

function expressMatch(path) {
  const route = match(oneTrailingSlash(path).toLowerCase())
  if (route) path.split('/').forEach((seg) => decodeURIComponent(seg.replace(/%(?![0-9A-Fa-f]{2})/g, '%25'))) // 400
  return route
}

function express(s) {
  return nodeAccepts(s) && s !== '*' ? expressMatch(expressPath(s) ?? '') : null
}

// app.use(base, router): Express 4 eats one more slash after the base, `^base\/?(?=\/|$)`.
function expressMounted(s, eats) {
  if (!nodeAccepts(s) || s === '*') return null
  const path = expressPath(s) ?? ''
  const mount = new RegExp('^' + base + eats + '(?=\\/|$)', 'i').exec(path)
  return mount ? expressMatch(base + path.slice(mount[0].length)) : null
}

// ---- Fastify 4 and 5 = find-my-way: decodeURI once with "%25" kept, no dot removal, a parameter may be empty ----------

function fastify(s, { semicolon = false, lenient = false } = {}) {
  if (!nodeAccepts(s)) return null
  let path = s[0] === '/' ? s : s.replace(/^https?:\/\/.*?\//, '/')
  if (lenient) path = path.replace(/\/{2,}/g, '/')
  path = path[0] + path.slice(1).split(semicolon ? /[?#;]/ : /[?#]/)[0]
  path = decodeURI(path.replace(/%25/g, '%2525')) // throws: FST_ERR_BAD_URL
  return match(lenient ? oneTrailingSlash(path).toLowerCase() : path, (seg) => seg, true)
}

// ---- Go ----------------------------------------------------------------------------------------------------------------

// goURL is url.ParseRequestURI: the escaped path, or null for an opaque target.
function goURL(s) {
  const scheme = /^[A-Za-z][A-Za-z0-9+.-]*:/.exec(s)
  let rest = query(scheme ? s.slice(scheme[0].length) : s)
  if (rest[0] !== '/') return null
  if (scheme && rest.startsWith('//')) rest = rest.slice(2).replace(/^[^/]*/, '')
  return rest
}

function goClean(p) {
  const out = []
  for (const seg of p.split('/')) {
    if (seg === '..') out.pop()
    else if (seg !== '' && seg !== '.') out.push(seg)
  }
  return '/' + out.join('/')
}

// net/http.ServeMux: another spelling than path.Clean's is redirected (307), then segment by segment decoded.
function goServeMux(s) {
  const path = goURL(s)
  if (path === null) return null
  const clean = goClean(path) + (path.endsWith('/') && path !== '/' ? '/' : '')
  return clean === path ? match(path, latin1) : null
}

// chi matches RawPath where there is one, else Path. gin, gorilla/mux and httprouter match the decoded Path.
const goRaw = (s) => (goURL(s) === null ? null : match(goURL(s)))
const goDecoded = (s) => (goURL(s) === null ? null : match(latin1(goURL(s))))
const goDecodedClean = (s) => (goURL(s) === null ? null : match(goClean(latin1(goURL(s)))))

// ---- Others, by their documented normalisation -------------------------------------------------------------------------

const originForm = (s) => (s[0] === '/' ? query(s) : (goURL(s) ?? ''))

// Tomcat: drop ";params" per segment, refuse "%2F" and "%5C", decode, merge slashes, resolve dots.
function servlet(s) {
  const path = originForm(s)
  if (/%2f|%5c|%00|\\/i.test(path)) return null
  return match(goClean(latin1(path.replace(/;[^/]*/g, ''))))
}

// nginx in front of anything (merge_slashes on): decode, merge, resolve dots.
const nginx = (s) => match(goClean(latin1(originForm(s))))

// WHATWG dot removal on text that has been decoded.
function dotsOnly(p) {
  const out = []
  const segments = p.split('/').slice(1)
  segments.forEach((seg, i) => {
    if (seg === '..') out.pop()
    if (seg === '.' || seg === '..') { if (i === segments.length - 1) out.push('') } else out.push(seg)
  })
  return '/' + out.join('/')
}

// Kestrel + ASP.NET routing: decode all but "%2F", resolve dots, ignore case and one trailing slash.
const kestrel = (s) => match(oneTrailingSlash(dotsOnly(latin1KeepSlash(originForm(s)))).toLowerCase())

// IIS (http.sys): decode, "\" is "/", resolve dots; ASP.NET routing above it.
const iis = (s) => match(oneTrailingSlash(dotsOnly(utf8(originForm(s)).replaceAll('\\', '/'))).toLowerCase())

const models = {
  'better-auth': (s) => betterAuth(s, false),
  'better-auth skipTrailingSlashes': (s) => betterAuth(s, true),
  'new URL(url, base)': baseUrlJoin,
  hono: (s) => hono(s, true),
  'hono strict:false': (s) => hono(s, false),
  express,
  'express 4 mounted': (s) => expressMounted(s, '\\/?'),
  'express 5 mounted': (s) => expressMounted(s, ''),
  'fastify 5': (s) => fastify(s),
  'fastify 4': (s) => fastify(s, { semicolon: true }),
  'fastify lenient': (s) => fastify(s, { lenient: true }),
  'go mux': goServeMux,
  'go chi': goRaw,
  'go gin': goDecoded,
  'go gin clean': goDecodedClean,
  servlet,
  nginx,
  kestrel,
  iis,
}

// A model that throws answers 400 or 500: nothing was executed.
const attempt = (model, s) => { try { return model(s) } catch { return null } }

console.log(JSON.stringify({
  models: Object.keys(models),
  runs: sent.map((s) => Object.values(models).map((model) => attempt(model, s))),
}))
