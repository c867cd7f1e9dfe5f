"""Elementary functions in WGSL, with the accuracy and the special values of the other backends.

The language lets an implementation assume that there are no NaN, and lets its `sin`, `exp` and `atan` be wrong in the fourth digit. So NaN is
told by bits, and functions are computed by the polynomials of Cephes (S. Moshier, netlib.org/cephes, single precision).
Source: W3C, WebGPU Shading Language, differences from IEEE 754 and floating point accuracy.
"""

# what is made of bits goes through `sizes[0]`, a zero that the compiler cannot see: infinities that it can see are refused
FUNCTIONS = """
fn bits(u: u32) -> f32 { return bitcast<f32>(u | sizes[0]); }
fn raw(x: f32) -> u32 { return bitcast<u32>(x) & 0x7fffffffu; }
fn is_nan(x: f32) -> bool { return raw(x) > 0x7f800000u; }
fn is_inf(x: f32) -> bool { return raw(x) == 0x7f800000u; }
fn is_neg(x: f32) -> bool { return (bitcast<u32>(x) >> 31u) == 1u; }
fn nan() -> f32 { return bits(0x7fc00000u); }
fn inf() -> f32 { return bits(0x7f800000u); }
fn ldexp_(x: f32, n: i32) -> f32 {
  let a = clamp(n, -252, 252) / 2;
  let b = clamp(n, -252, 252) - a;
  return x * bitcast<f32>(u32(a + 127) << 23u) * bitcast<f32>(u32(b + 127) << 23u);
}
fn exp_(x: f32) -> f32 {
  if (is_nan(x)) { return x; }
  if (x > 88.72283) { return inf(); }
  if (x < -103.97208) { return 0.0; }
  let n = floor(x * 1.44269504 + 0.5);
  let r = (x - n * 0.693359375) - n * -2.12194440e-4;
  var p = 1.9875691500e-4;
  p = p * r + 1.3981999507e-3; p = p * r + 8.3334519073e-3; p = p * r + 4.1665795894e-2;
  p = p * r + 1.6666665459e-1; p = p * r + 5.0000001201e-1;
  return ldexp_(p * r * r + r + 1.0, i32(n));
}
fn log_(x: f32) -> f32 {
  if (is_nan(x)) { return x; }
  if (raw(x) == 0u) { return -inf(); }
  if (is_neg(x)) { return nan(); }
  if (is_inf(x)) { return x; }
  var u = bitcast<u32>(x);
  var e = 0;
  if (u < 0x800000u) { u = bitcast<u32>(f32(u)); e = i32(u >> 23u) - 126 - 149; }
  else { e = i32(u >> 23u) - 126; }
  var m = bitcast<f32>((u & 0x7fffffu) | 0x3f000000u);
  if (m < 0.70710678) { e -= 1; m = m + m - 1.0; } else { m = m - 1.0; }
  let z = m * m;
  var p = 7.0376836292e-2;
  p = p * m - 1.1514610310e-1; p = p * m + 1.1676998740e-1; p = p * m - 1.2420140846e-1; p = p * m + 1.4249322787e-1;
  p = p * m - 1.6668057665e-1; p = p * m + 2.0000714765e-1; p = p * m - 2.4999993993e-1; p = p * m + 3.3333331174e-1;
  let f = f32(e);
  return m + (p * m * z + f * -2.12194440e-4 - 0.5 * z) + f * 0.693359375;
}
fn turned(x: f32, quarter: i32) -> f32 {
  if (is_nan(x) || is_inf(x)) { return nan(); }
  let q = round(x * 0.63661977);
  let r = ((x - q * 1.5703125) - q * 4.837512969970703125e-4) - q * 7.549789954891e-8;
  let z = r * r;
  let n = (i32(q) + quarter) & 3;
  let s = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * r + r;
  let c = ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z - 0.5 * z + 1.0;
  let v = select(s, c, (n & 1) == 1);
  return select(v, -v, (n & 2) == 2);
}
fn sin_(x: f32) -> f32 { return turned(x, 0); }
fn cos_(x: f32) -> f32 { return turned(x, 1); }
fn tan_(x: f32) -> f32 { return turned(x, 0) / turned(x, 1); }
fn atan_(x: f32) -> f32 {
  if (is_nan(x)) { return x; }
  let a = abs(x);
  var y = 0.0;
  var t = a;
  if (a > 2.414213562373095) { y = 1.5707963267948966; t = -1.0 / a; }
  else if (a > 0.4142135623730950) { y = 0.7853981633974483; t = (a - 1.0) / (a + 1.0); }
  let z = t * t;
  y += (((8.05374449538e-2 * z - 1.38776856032e-1) * z + 1.99777106478e-1) * z - 3.33329491539e-1) * z * t + t;
  return select(y, -y, is_neg(x));
}
fn atan2_(y: f32, x: f32) -> f32 {
  if (is_nan(x) || is_nan(y)) { return nan(); }
  var v = 0.0;
  if (is_inf(x) && is_inf(y)) { v = select(0.7853981633974483, 2.356194490192345, is_neg(x)); }
  else if (raw(x) == 0u && raw(y) == 0u) { v = select(0.0, 3.141592653589793, is_neg(x)); }
  else if (raw(x) == 0u) { v = 1.5707963267948966; }
  else { v = atan_(abs(y) / abs(x)); if (is_neg(x)) { v = 3.141592653589793 - v; } }
  return select(v, -v, is_neg(y));
}
fn asin_(x: f32) -> f32 { if (!(abs(x) <= 1.0)) { return nan(); } return atan2_(x, sqrt((1.0 - x) * (1.0 + x))); }
fn acos_(x: f32) -> f32 { if (!(abs(x) <= 1.0)) { return nan(); } return atan2_(sqrt((1.0 - x) * (1.0 + x)), x); }
fn log1p_(x: f32) -> f32 {
  if (!(abs(x) < 0.4)) { return log_(1.0 + x); }
  let s = x / (2.0 + x);
  let z = s * s;
  return 2.0 * s * (1.0 + z * (1.0 / 3.0 + z * (1.0 / 5.0 + z * (1.0 / 7.0 + z * (1.0 / 9.0 + z / 11.0)))));
}
fn expm1_(x: f32) -> f32 {
  if (is_nan(x)) { return x; }
  if (abs(x) < 0.3) {
    var p = 1.0 / 5040.0;
    p = p * x + 1.0 / 720.0; p = p * x + 1.0 / 120.0; p = p * x + 1.0 / 24.0; p = p * x + 1.0 / 6.0; p = p * x + 0.5; p = p * x + 1.0;
    return p * x;
  }
  return exp_(x) - 1.0;
}
fn log2_(x: f32) -> f32 { return log_(x) * 1.4426950408889634; }
fn log10_(x: f32) -> f32 { return log_(x) * 0.4342944819032518; }
fn sinh_(x: f32) -> f32 {
  if (abs(x) < 1.0) { let e = expm1_(x); return 0.5 * (e + e / (e + 1.0)); }
  let h = exp_(0.5 * abs(x));
  let v = 0.5 * h * h - 0.5 * exp_(-abs(x));
  return select(v, -v, is_neg(x));
}
fn cosh_(x: f32) -> f32 { let h = exp_(0.5 * abs(x)); return 0.5 * h * h + 0.5 * exp_(-abs(x)); }
fn tanh_(x: f32) -> f32 {
  if (is_nan(x)) { return x; }
  let e = expm1_(2.0 * min(abs(x), 20.0));
  let v = e / (e + 2.0);
  return select(v, -v, is_neg(x));
}
fn asinh_(x: f32) -> f32 {
  let a = abs(x);
  if (is_nan(x) || is_inf(x)) { return x; }
  var v = 0.0;
  if (a > 1e9) { v = log_(a) + 0.6931471805599453; } else { v = log1p_(a + a * a / (1.0 + sqrt(a * a + 1.0))); }
  return select(v, -v, is_neg(x));
}
fn acosh_(x: f32) -> f32 {
  if (!(x >= 1.0)) { return nan(); }
  if (x > 1e9) { return log_(x) + 0.6931471805599453; }
  let t = x - 1.0;
  return log1p_(t + sqrt(2.0 * t + t * t));
}
fn atanh_(x: f32) -> f32 {
  if (!(abs(x) <= 1.0)) { return nan(); }
  if (abs(x) == 1.0) { return select(inf(), -inf(), is_neg(x)); }
  return 0.5 * log1p_(2.0 * x / (1.0 - x));
}
fn sqrt_(x: f32) -> f32 { if (x < 0.0) { return nan(); } return sqrt(x); }
fn pow_(x: f32, y: f32) -> f32 {
  if (raw(y) == 0u || bitcast<u32>(x) == 0x3f800000u) { return 1.0; }
  if (is_nan(x) || is_nan(y)) { return nan(); }
  let whole = y == floor(y) && !is_inf(y);
  let odd = whole && abs(y) < 16777216.0 && (i32(clamp(y, -16777216.0, 16777216.0)) & 1) == 1;
  let a = abs(x);
  if (is_inf(y)) {
    if (a == 1.0) { return 1.0; }
    return select(0.0, inf(), (a > 1.0) == (y > 0.0));
  }
  if (raw(x) == 0u || is_inf(x)) {
    let v = select(0.0, inf(), (raw(x) == 0u) == (y < 0.0));
    return select(v, -v, odd && is_neg(x));
  }
  if (is_neg(x) && !whole) { return nan(); }
  var v = 1.0;
  if (whole && abs(y) <= 64.0) {
    var n = u32(abs(y));
    var b = a;
    loop { if (n == 0u) { break; } if ((n & 1u) == 1u) { v *= b; } b *= b; n = n >> 1u; }
    if (y < 0.0) { v = 1.0 / v; }
  } else { v = exp_(y * log_(a)); }
  return select(v, -v, odd && is_neg(x));
}
fn hypot_(x: f32, y: f32) -> f32 {
  if (is_inf(x) || is_inf(y)) { return inf(); }
  if (is_nan(x) || is_nan(y)) { return nan(); }
  let a = max(abs(x), abs(y));
  if (a == 0.0) { return 0.0; }
  let b = min(abs(x), abs(y)) / a;
  return a * sqrt(1.0 + b * b);
}
fn logaddexp_(x: f32, y: f32) -> f32 {
  if (is_nan(x) || is_nan(y)) { return nan(); }
  if (bitcast<u32>(x) == bitcast<u32>(y)) { return x + 0.6931471805599453; }
  if (is_inf(x) || is_inf(y)) { return max(x, y); }
  return max(x, y) + log1p_(exp_(-abs(x - y)));
}
fn nextafter_(x: f32, y: f32) -> f32 {
  if (is_nan(x) || is_nan(y)) { return nan(); }
  if (x == y) { return y; }
  if (raw(x) == 0u) { return bits(select(1u, 0x80000001u, y < 0.0)); }
  let u = bitcast<u32>(x);
  return bits(select(u - 1u, u + 1u, (y > x) != is_neg(x)));
}
fn copysign_(x: f32, y: f32) -> f32 { return bits(raw(x) | (bitcast<u32>(y) & 0x80000000u)); }
fn sign_(x: f32) -> f32 { if (is_nan(x)) { return x; } return sign(x); }
fn fmod_(x: f32, y: f32) -> f32 {
  if (is_nan(x) || is_nan(y) || is_inf(x) || raw(y) == 0u) { return nan(); }
  if (is_inf(y) || abs(x) < abs(y)) { return x; }
  var r = abs(x);
  for (var n = i32(raw(x) >> 23u) - i32(raw(y) >> 23u); n >= 0; n--) {
    let part = ldexp_(abs(y), n);
    if (r >= part) { r = r - part; }
  }
  return select(r, -r, is_neg(x));
}
fn rem_f(x: f32, y: f32) -> f32 {
  let m = fmod_(x, y);
  if (m == 0.0) { return copysign_(0.0, y); }
  return select(m, m + y, (y < 0.0) != (m < 0.0));
}
fn div_f(x: f32, y: f32) -> f32 {
  if (raw(y) == 0u) { return x / y; }
  let m = fmod_(x, y);
  if (is_nan(m)) { return m; }
  var d = (x - m) / y;
  if (m != 0.0 && (y < 0.0) != (m < 0.0)) { d -= 1.0; }
  return round(d);
}
fn unequal(x: f32, y: f32) -> bool { return is_nan(x) || is_nan(y) || x != y; }
fn max_(x: f32, y: f32) -> f32 { if (is_nan(x)) { return x; } if (is_nan(y)) { return y; } return max(x, y); }
fn min_(x: f32, y: f32) -> f32 { if (is_nan(x)) { return x; } if (is_nan(y)) { return y; } return min(x, y); }
fn quo_i(x: i32, y: i32) -> i32 {
  if (y == 0) { return 0; }
  if (y == -1) { return 0 - x; }
  let q = x / y;
  return select(q, q - 1, q * y != x && (x < 0) != (y < 0));
}
fn rem_i(x: i32, y: i32) -> i32 { if (y == 0 || y == -1) { return 0; } return x - quo_i(x, y) * y; }
fn quo_u(x: u32, y: u32) -> u32 { if (y == 0u) { return 0u; } return x / y; }
fn rem_u(x: u32, y: u32) -> u32 { if (y == 0u) { return 0u; } return x % y; }
fn pow_u(x: u32, y: u32) -> u32 {
  var v = 1u;
  var b = x;
  var n = y;
  loop { if (n == 0u) { break; } if ((n & 1u) == 1u) { v *= b; } b *= b; n = n >> 1u; }
  return v;
}
fn pow_i(x: i32, y: i32) -> i32 { return bitcast<i32>(pow_u(bitcast<u32>(x), bitcast<u32>(y))); }
fn shl_u(x: u32, y: u32) -> u32 { if (y > 31u) { return 0u; } return x << y; }
fn shr_u(x: u32, y: u32) -> u32 { if (y > 31u) { return 0u; } return x >> y; }
fn shl_i(x: i32, y: i32) -> i32 { if (y < 0 || y > 31) { return 0; } return x << u32(y); }
fn shr_i(x: i32, y: i32) -> i32 { if (y < 0 || y > 31) { return select(0, -1, x < 0); } return x >> u32(y); }
"""
